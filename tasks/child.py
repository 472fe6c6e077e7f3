"""A child process that streams what it says, dies when its parent dies, and fails with its last words."""

import collections
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LAST_LINES = 25


class ChildFailed(RuntimeError):
    """The child ended with an error; the message holds its last lines."""


def run_child(
    argv: Sequence[str],
    *,
    log_file: Path,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    grace_seconds: float = 30.0,
) -> None:
    """Run `argv` to its end; every line of its output goes to `log_file` and to `on_line`.

    The child gets SIGTERM when this process dies, however it dies (PR_SET_PDEATHSIG: call from the main thread, which
    outlives the child), or when this call is interrupted (cancellation arrives as an exception); SIGKILL follows after
    `grace_seconds`. Raises ChildFailed with the exit code and the last lines.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    wrapper = [sys.executable, "-m", "tasks.child", str(os.getpid()), *argv]
    with (
        log_file.open("a", encoding="utf-8") as log,
        subprocess.Popen(
            wrapper,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        ) as child,
    ):
        try:
            assert child.stdout is not None  # noqa: S101  (PIPE was asked for)
            for line in child.stdout:
                log.write(line)
                log.flush()
                last.append(line.rstrip())
                on_line(line.rstrip())
            code = child.wait()
        except BaseException:
            _end(child, grace_seconds)
            raise
    if code:
        words = "\n".join(last)
        raise ChildFailed(
            f"{' '.join(argv[:6])} … ended with code {code}. Its whole log: {log_file}. Last lines:\n{words}"
        )


def _end(child: subprocess.Popen[str], grace_seconds: float) -> None:
    child.terminate()
    try:
        child.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _become(parent: int, argv: list[str]) -> None:
    """In the child: ask for SIGTERM at the parent's death, then become `argv`."""
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)
    os.execvp(argv[0], argv)  # noqa: S606  (the parent's own argv, no shell)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
