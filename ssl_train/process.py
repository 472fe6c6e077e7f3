"""This process among others of the machine: asked to stop, left alone by its parent, sole owner of a run's folder."""

import ctypes
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ssl_train.errors import ConfigError

LOCK = ".lock"
_PR_SET_PDEATHSIG = 1


@contextmanager
def stop_on_sigterm(stop: threading.Event) -> Iterator[None]:
    """While the block runs, SIGTERM asks for a stop within two steps instead of ending the process."""

    def request(signum: int, frame: FrameType | None) -> None:
        stop.set()

    previous = signal.signal(signal.SIGTERM, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def die_with_torchrun() -> None:
    """Have Linux kill this process when torchrun is killed: it puts its children into sessions of their own.

    Without this a training whose torchrun was killed would go on unseen, beside the one that is started in its place.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def sole_owner(directory: str) -> Iterator[None]:
    """Hold the folder of a run; the lock goes with the process, however it ends.

    Raises ConfigError when another process holds it, and when it cannot be written in.
    """
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        lock = (Path(directory) / LOCK).open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot write in output_dir = {directory}: {error.strerror}. Free space, correct the path, or choose "
            "another folder."
        ) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process trains in output_dir = {directory}. Wait for it, stop it, or choose another folder."
            ) from None
        yield
