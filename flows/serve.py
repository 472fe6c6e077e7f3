"""`make ui`: Prefect server, workers and deployments on this machine, until Ctrl-C.

While it runs, `prefect.toml` in the project's folder points every `prefect` command given there at this server.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

_HOST = "127.0.0.1"
_START_SECONDS = 120
_POOLS = {"cpu": 2, "gpu": 1}
_SETTINGS = Path("prefect.toml")
# One event at a time is Prefect's default and loses task runs in a burst (measured: 3,779 of 5,001 kept).
_SERVER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Start everything, print where to look, wait for Ctrl-C, end everything."""
    parser = argparse.ArgumentParser(prog="make ui", description=__doc__)
    parser.add_argument("--data", default="data", help="folder of runs and of Prefect's database")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "4200")), help="the server's port")
    parser.add_argument("--web-port", type=int, default=8765, help="port of the embedded sample web")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with serving(Path(options.data), port=options.port, web_port=options.web_port) as address:
            _print_where(address)
            signal.pause()
    except KeyboardInterrupt:
        print("ended")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def serving(data: Path, *, port: int, web_port: int) -> Iterator[str]:
    """The server's address while it, the sample web and the workers run. Raises RuntimeError when one cannot start."""
    for needed, option in ((port, "PORT=4201"), (web_port, "--web-port")):
        if _answers(needed):
            raise RuntimeError(f"port {needed} is in use: end what runs there, or choose another ({option}).")
    address = f"http://{_HOST}:{port}"
    environment = {**os.environ, **_SERVER_SETTINGS, "PREFECT_API_URL": f"{address}/api"}
    environment.setdefault("PREFECT_HOME", str((data / "prefect").resolve()))
    logs = data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        web = [sys.executable, "-m", "examples.sample_web.server", str(data / "sample_web"), "--port", str(web_port)]
        _run([sys.executable, "-m", "examples.sample_web", "--data", str(data), "--build-only"], environment)
        stack.enter_context(_child(web, logs / "sample_web.log", environment))
        server = ["server", "start", "--host", _HOST, "--port", str(port)]
        stack.enter_context(_child(_prefect(*server), logs / "server.log", environment))
        _wait_for(f"{address}/api/health", logs / "server.log")
        _point_commands_at(f"{address}/api", stack)
        for pool, limit in _POOLS.items():
            _run(_prefect("work-pool", "create", pool, "--type", "process", "--overwrite"), environment)
            _run(_prefect("work-pool", "set-concurrency-limit", pool, str(limit)), environment)
        _run(_prefect("--no-prompt", "deploy", "--all"), environment)
        for pool in _POOLS:
            worker = _prefect("worker", "start", "--pool", pool, "--type", "process")
            stack.enter_context(_child(worker, logs / f"worker-{pool}.log", environment))
        yield address


def _prefect(*words: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *words]


def _run(argv: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(argv)} failed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


@contextmanager
def _child(argv: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A child with its own log, ended (its own children too) when the block ends."""
    with log.open("a") as sink:
        process = subprocess.Popen(argv, stdout=sink, stderr=sink, env=environment, start_new_session=True)
        try:
            yield
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  (our own loopback address)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"the Prefect server did not answer at {url} within {_START_SECONDS} s; see {log}.")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((_HOST, port)) == 0


def _point_commands_at(api: str, stack: ExitStack) -> None:
    """prefect.toml for the time being; a user's own is put aside and back."""
    aside = _SETTINGS.with_suffix(".toml.aside")
    if _SETTINGS.exists():
        shutil.move(_SETTINGS, aside)
        stack.callback(shutil.move, aside, _SETTINGS)
    else:
        stack.callback(_SETTINGS.unlink, missing_ok=True)
    _SETTINGS.write_text(f'# Written by `make ui` while it runs.\n[api]\nurl = "{api}"\n')


def _print_where(address: str) -> None:
    print(
        f"Prefect UI        {address}/v2/dashboard\n"
        f"Runs              {address}/v2/runs\n"
        f"Artifacts         {address}/v2/artifacts   (lineage: {address}/v2/artifacts/key/lvd-lineage)\n\n"
        "In another terminal, in this folder:\n"
        "  source .venv/bin/activate\n"
        "  prefect deployment run curate-lvd/sample\n"
        "  prefect deployment run curate-lvd/prod\n\n"
        "Ctrl-C ends server, workers and the sample web.",
        flush=True,
    )


if __name__ == "__main__":
    main()
