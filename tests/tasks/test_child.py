"""A child streams what it says, fails with its last words, and never outlives its parent."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.child import ChildFailed, run_child


def test_lines_reach_the_log_and_the_caller_as_they_are_said(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "print('one'); import sys; print('two', file=sys.stderr)"
    run_child([sys.executable, "-c", code], log_file=tmp_path / "log.txt", on_line=lines.append)
    assert lines == ["one", "two"]
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"


def test_a_failure_carries_the_code_the_last_words_and_the_logs_place(tmp_path: Path) -> None:
    code = "import sys; print('the GPU is on fire'); sys.exit(3)"
    with pytest.raises(ChildFailed, match=r"(?s)code 3.*log\.txt.*the GPU is on fire"):
        run_child([sys.executable, "-c", code], log_file=tmp_path / "log.txt", on_line=lambda line: None)


def test_an_interrupted_call_ends_its_child(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run_child([sys.executable, "-c", code], log_file=tmp_path / "log.txt", on_line=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    parent = (
        "import sys; from pathlib import Path; from tasks.child import run_child\n"
        f"run_child([sys.executable, '-c', {child!r}], log_file=Path({str(tmp_path / 'log')!r}), "
        "on_line=lambda line: print(line, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        descriptor = os.pidfd_open(pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = select.select([descriptor], [], [], 10)[0]
    os.close(descriptor)
    assert ended, "the child lives on"
