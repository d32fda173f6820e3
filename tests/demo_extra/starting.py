"""A demo of the bundled model, as a user starts it, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STARTS = 120  # seconds, on a busy machine; a quiet one takes seven


@dataclass(frozen=True)
class Server:
    """A running `lvlm-prune demo`."""

    url: str
    process: subprocess.Popen
    log: Path
    temporary: Path

    @property
    def pid(self) -> int:
        return self.process.pid


def begun(folder: Path, *options: str, **environment: str) -> tuple[subprocess.Popen, Path]:
    """Start the demo and do not wait for it; its temporary files lie below a folder of tests."""
    (folder / "files").mkdir(exist_ok=True)
    log = folder / "server.log"
    own = {"TMPDIR": str(folder / "files"), "OMP_NUM_THREADS": "1", **environment}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "lvlm_prune.cli", "demo", *options],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own},
            cwd=folder,
        )
    return process, log


@contextmanager
def started(folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    """A demo that answers, on a free port."""
    port = free_port()
    process, log = begun(folder, "--port", str(port), *options, **environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/", process, log)
        yield Server(url, process, log, folder / "files")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until the page answers, or say why it does not."""
    ends = time.monotonic() + STARTS
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RuntimeError(f"the demo ended: {log.read_text()}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no page after {STARTS} s: {log.read_text()}")
