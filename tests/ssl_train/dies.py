"""A training that kills itself at a chosen moment; run by the tests of checkpoints and of restarts.

usage: dies.py while-saving STEP | at-step STEP MARKER, then what `ssl_train.train` takes
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from ssl_train import checkpoint
from ssl_train.train import main
from ssl_train.trainer import Trainer


def die() -> None:
    """The end of this process, now: nothing is flushed, closed or waited for."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_saving(step: int) -> None:
    """Die when the thread that writes the checkpoint of `step` has begun its first file."""
    begin = checkpoint.async_save

    def begin_and_die(state: dict[str, Any], **given: Any) -> Any:
        written = begin(state, **given)
        folder = given["checkpoint_id"]
        if folder.name.startswith(f"step-{step:09d}"):
            while not any(folder.glob("*.distcp")):
                assert not written.done(), "there is a file before it is done"
            die()
        return written

    checkpoint.async_save = begin_and_die


def die_once_at(step: int, marker: Path) -> None:
    """Have the second process die before it takes `step` (counted from 0), unless it did so in an earlier life."""
    plain = Trainer._loss

    def loss(self: Trainer, batch: Any, number: int) -> Any:
        if number == step and self.world.rank == 1 and not marker.exists():
            marker.touch()
            die()
        return plain(self, batch, number)

    Trainer._loss = loss  # type: ignore[method-assign]


if __name__ == "__main__":
    how, moment, *rest = sys.argv[1:]
    if how == "while-saving":
        die_while_saving(int(moment))
    else:
        die_once_at(int(moment), Path(rest.pop(0)))
    sys.exit(main(rest))
