"""The command itself: how it ends, and what it says of mistakes (killed and started again: test_elastic)."""

import os
import signal
import threading
from pathlib import Path

import pytest

from ssl_train.process import stop_on_sigterm
from ssl_train.train import main


def test_sigterm_asks_for_a_stop_and_the_old_handler_comes_back() -> None:
    stop, before = threading.Event(), signal.getsignal(signal.SIGTERM)
    with stop_on_sigterm(stop):
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["debug", "data.shard=x"], "did you mean 'shards'?"),
        (["debug"], "output_dir is empty"),
        (["debug", "output_dir={tmp}/run", "data.shards={tmp}/none-*.tar"], "no tars match"),
    ],
)
def test_a_mistake_ends_with_one_message_and_nothing_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("run/[!.]*"))


def test_without_arguments_the_command_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "vitl14_long" in capsys.readouterr().out
