"""How the demo ends, and what it says when it begins or cannot."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from demo_extra.starting import begun, free_port, started

from lvlm_prune.assets import asset
from lvlm_prune.demo.address import LOOPBACK, check_address, names
from lvlm_prune.demo.cancelling import CancelledError, Jobs
from lvlm_prune.demo.ending import PATIENCE
from lvlm_prune.demo.server import lines

SCENE = asset("probe", "images", "scene_000012.jpg")
SECONDS = 3.0  # on a busy machine; a quiet one takes one at most
ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def ended(process, number: int) -> tuple[int, float]:
    """Exit code after a signal, and the seconds until then."""
    begun = time.monotonic()
    process.send_signal(number)
    return process.wait(30), time.monotonic() - begun


@pytest.mark.parametrize(("number", "code"), ENDS)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_signal_ends_it_soon_and_the_uploads_are_gone(
    gradio_client, tmp_path, number, code, busy
):
    with started(tmp_path) as server:
        client = gradio_client.Client(server.url, verbose=False, analytics_enabled=False)
        if busy:
            file = gradio_client.handle_file(str(SCENE))
            values = (file, "How many mice are there?", "visionzip", 49, "none", "ignore")
            job = client.submit(*values, api_name="/compare_methods")
            while not job.outputs():
                time.sleep(0.05)
        assert list(server.temporary.iterdir())
        found, seconds = ended(server.process, number)
        assert found == code
        assert seconds < SECONDS
        assert list(server.temporary.iterdir()) == []
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(("number", "code"), ENDS)
def test_a_signal_ends_it_while_it_loads(gradio_client, tmp_path, number, code):
    process, log = begun(tmp_path, "--port", str(free_port()))
    while process.poll() is None and not list((tmp_path / "files").glob("lvlm-prune-demo-*")):
        time.sleep(0.02)
    time.sleep(1)
    found, seconds = ended(process, number)
    assert (found, log.read_text()) == (code, "")
    assert seconds < SECONDS
    assert list((tmp_path / "files").iterdir()) == []


DEAF = """
import sys, time
from pathlib import Path
from lvlm_prune.demo.ending import ending
with ending(Path(sys.argv[1])):
    try:
        print("begun", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("heard", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("twice", [False, True])
def test_work_that_does_not_end_is_left_and_a_second_signal_does_not_wait(tmp_path, twice):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    command = [sys.executable, "-c", DEAF, str(uploads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "heard\n"
        if twice:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == (143 if twice else 130)
    assert (time.monotonic() - begun < PATIENCE) == twice
    assert not uploads.exists()


@pytest.mark.parametrize("ignored", [False, True], ids=["terminal closed", "nohup"])
def test_a_closed_terminal_ends_it_unless_that_is_ignored(tmp_path, ignored):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    before = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" if ignored else ""
    command = [sys.executable, "-c", before + DEAF, str(uploads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        if ignored:
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == (143 if ignored else 129)
    assert not uploads.exists()


def test_it_says_its_address_and_how_to_end_it(server):
    assert server.log.read_text().splitlines()[0] == (
        f"The demo is at {server.url}/ - Ctrl-C ends it."
    )
    assert "launch()" not in server.log.read_text()


def test_without_a_public_link_it_says_so():
    here, none = lines("http://127.0.0.1:1/", True, None)
    assert "There is no public link" in none
    assert lines("http://127.0.0.1:1/", False, None) == [here]
    assert "https://a.gradio.live" in lines("http://127.0.0.1:1/", True, "https://a.gradio.live")[1]


def refused(folder, *options: str) -> str:
    """What the demo says that does not start."""
    process, log = begun(folder, *options)
    assert process.wait(30) == 1
    return log.read_text()


def test_a_taken_port_is_one_sentence(gradio_client, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(tmp_path, "--port", str(port))
    assert said == (
        f"lvlm-prune: Port {port} is taken on 127.0.0.1; choose another one with --port, or leave "
        "it out for the first free one from 7860.\n"
    )


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.7", "a" * 300, ""])
def test_a_host_that_cannot_be_had_is_one_sentence(host):
    with pytest.raises(OSError, match=rf"^--host {re.escape(host)} is not (known|an address)"):
        check_address(host, None)


def test_only_a_server_for_this_machine_alone_has_its_names_for_itself():
    assert names("127.0.0.1", share=False) == LOOPBACK
    assert names("::1", share=False) == LOOPBACK
    assert names("127.0.0.9", share=False) == LOOPBACK | {"127.0.0.9"}
    assert names("127.0.0.1", share=True) is None
    assert names("0.0.0.0", share=False) is None


def test_closed_jobs_are_cancelled_those_to_come_too():
    jobs, begins = Jobs(), threading.Barrier(2)
    cancelled = []

    def work() -> None:
        with jobs.job("one") as job:
            begins.wait()
            begins.wait()
            with pytest.raises(CancelledError):
                job.check()
            cancelled.append(job)

    thread = threading.Thread(target=work)
    thread.start()
    begins.wait()
    jobs.close()
    begins.wait()
    thread.join()
    assert len(cancelled) == 1
    with jobs.job("two") as job, pytest.raises(CancelledError):
        job.check()
