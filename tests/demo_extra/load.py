"""The demo under load: many clients ask at the same time, and every answer is checked.

In: a number of clients and seconds; it starts `lvlm-prune demo` with the bundled model itself. Out:
requests, errors, wrong answers and the server's memory, as one line each; the exit code is 1 where
one of them is not as it should be. Each client is a thread with a gradio client of its own, which
uploads an image for every request. Half of the requests are for a few questions that everybody
asks, so they come from the server's cache; the other half is new to the server, so the model runs.
A right answer is that of a single user: the same engine in this process, without a server, asked
one question after the other when the load is over.

Memory is the server's resident set (VmRSS of /proc/PID/status), read twice a second. Growth is the
mean of the last window minus the mean of the window after the warm-up.
"""

import argparse
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lvlm_prune.assets import asset

STARTS = 120  # seconds until the page answers, on a busy machine
GROWTH = 50.0  # MiB
SCENES = tuple(asset("probe", "images", f"scene_{number:06d}.jpg") for number in range(1, 9))
THINGS = ("a giraffe", "an umbrella", "a dog", "an airplane", "a cat", "a bus", "a boat", "a tree")
METHODS = ("visionzip", "divprune", "cls", "random", "grid")
REWEIGHTINGS = ("none", "none", "none", "pai")


@dataclass(frozen=True)
class Way:
    """One request: a question about an image, and how to prune."""

    image: Path
    question: str
    method: str
    keep: int
    reweight: str

    @property
    def values(self) -> tuple[Any, ...]:
        """What follows the image in a call."""
        return self.question, self.method, self.keep, self.reweight, "ignore"


@dataclass
class Found:
    """What a load came to.

    Args:
        answers: each request, with its two answers and the kept tokens.
        errors: requests that failed, in words.
        resident: seconds since the start, and MiB of the server.
    """

    answers: list[tuple[Way, tuple[Any, ...]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    resident: list[tuple[float, float]] = field(default_factory=list)

    def memory(self, warm_up: float) -> tuple[float, float, float]:
        """MiB after the warm-up, at the end, and at most after the warm-up."""
        ends = self.resident[-1][0]
        window = min(10.0, (ends - warm_up) / 3)
        first = [mib for at, mib in self.resident if warm_up <= at <= warm_up + window]
        last = [mib for at, mib in self.resident if at >= ends - window]
        most = max(mib for at, mib in self.resident if at >= warm_up)
        return statistics.mean(first), statistics.mean(last), most


def load(url: str, pid: int, clients: int, seconds: float) -> Found:
    """Let clients ask until the time is over.

    Args:
        url: of the demo.
        pid: of its process.
        clients: that ask at the same time.
        seconds: after which nobody asks again.
    """
    found = Found()
    starts = time.monotonic()
    with ThreadPoolExecutor(clients) as threads:
        users = [
            threads.submit(_user, url, seed, starts + seconds, found) for seed in range(clients)
        ]
        while not all(user.done() for user in users):
            found.resident.append((time.monotonic() - starts, resident(pid)))
            time.sleep(0.5)
        for user in users:
            user.result()
    return found


def _user(url: str, seed: int, ends: float, found: Found) -> None:
    """One client's requests, one after the other; lists are appended to by several threads."""
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False, analytics_enabled=False)
    draw = random.Random(seed)
    while time.monotonic() < ends:
        way = request(draw)
        try:
            output = client.predict(handle_file(str(way.image)), *way.values, api_name="/ask")
        except Exception as error:
            found.errors.append(f"{type(error).__name__}: {error}")
            continue
        if "Done." not in output[0]:
            found.errors.append(output[0])
            continue
        numbers = output[5]
        said = numbers["full"]["answer"], numbers["pruned"]["answer"], tuple(numbers["kept"])
        found.answers.append((way, said))


def request(draw: random.Random) -> Way:
    """A request: one of eight that everybody makes, or one of about 200 000."""
    if draw.random() < 0.5:
        number = draw.randrange(len(SCENES))
        return Way(SCENES[number], _asked(number), METHODS[number % 5], 49, "none")
    return Way(
        draw.choice(SCENES),
        _asked(draw.randrange(len(THINGS))),
        draw.choice(METHODS),
        draw.randint(4, 150),
        draw.choice(REWEIGHTINGS),
    )


def _asked(number: int) -> str:
    return f"Is there {THINGS[number]} in the image?"


def wrong_answers(found: Found) -> list[Way]:
    """Requests whose answer is not that of a single user, who needs no server."""
    from lvlm_prune.demo.cancelling import Job
    from lvlm_prune.demo.engine import Engine
    from lvlm_prune.demo.settings import Asking, Settings
    from lvlm_prune.demo.uploads import read_upload
    from lvlm_prune.loading import load as load_model

    engine = Engine(load_model(None, "cpu", False))
    wrong = []
    for way, said in found.answers:
        asking = Asking(*read_upload(str(way.image)), way.question)
        settings = Settings(way.method, way.keep, way.reweight)
        full = engine.full(asking, Job())
        pruned = engine.pruned(asking, settings, Job())
        if said != (full.text, pruned.text, tuple(pruned.choice.kept.tolist())):
            wrong.append(way)
    engine.close()
    return wrong


def resident(pid: int) -> float:
    """MiB of a process that are in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1024


@contextmanager
def served() -> Iterator[tuple[str, int]]:
    """The address and process of a demo that runs inside the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TMPDIR": folder}
        command = [sys.executable, "-m", "lvlm_prune.cli", "demo", "--port", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        try:
            _wait(f"http://127.0.0.1:{port}/", process)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def _wait(url: str, process: subprocess.Popen) -> None:
    """Wait until the page answers."""
    ends = time.monotonic() + STARTS
    while time.monotonic() < ends and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no page at {url}; run `lvlm-prune demo` to see why")


def main() -> int:
    """Start a demo, load it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--warm-up", type=float, default=20.0, help="seconds")
    arguments = parser.parse_args()
    with served() as (url, pid):
        found = load(url, pid, arguments.clients, arguments.seconds)
    warm, end, most = found.memory(arguments.warm_up)
    wrong = wrong_answers(found)
    ways = len({way for way, _ in found.answers})
    lines = [
        f"{arguments.clients} clients, {arguments.seconds:.0f} s",
        f"{len(found.answers)} answers to {ways} different requests",
        f"{len(found.errors)} errors {sorted(set(found.errors))[:3]}",
        f"{len(wrong)} answers differ from the single user's {wrong[:3]}",
        f"server: {warm:.0f} MiB after {arguments.warm_up:.0f} s, {end:.0f} MiB at the end "
        f"({end - warm:+.0f}), at most {most:.0f} MiB",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    good = found.answers and not found.errors and not wrong and end - warm <= GROWTH
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
