"""The demo over HTTP, through gradio's own client: answers, sentences, cancelling, closed doors."""

import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lvlm_prune.assets import asset

SCENE = asset("probe", "images", "scene_000001.jpg")
OTHER = asset("probe", "images", "scene_000012.jpg")
QUESTION = "Is there a giraffe in the image?"
VALUES = ("visionzip", 49, "none", "ignore")


@pytest.fixture
def connect(gradio_client, server):
    """A new client, which is a user of its own."""
    return lambda: gradio_client.Client(server.url, verbose=False, analytics_enabled=False)


def asked(client, path, question=QUESTION, values=VALUES) -> dict:
    """The numbers of an answer."""
    from gradio_client import handle_file

    return client.predict(handle_file(str(path)), question, *values, api_name="/ask")[5]


def test_an_answer_has_all_its_parts(connect):
    from gradio_client import handle_file

    client = connect()
    message, answers, kept, scores, note, numbers = client.predict(
        handle_file(str(SCENE)), QUESTION, *VALUES, api_name="/ask"
    )
    assert "Done." in message
    assert QUESTION in answers
    assert "KV cache" in answers
    assert kept.count("data:image/webp") == kept.count("<img") == 2
    assert scores.count("data:image/webp") == 2  # scores, and what was merged
    assert "ViT sink" in note
    assert numbers["full"]["visual_tokens"] == 196
    assert numbers["pruned"]["visual_tokens"] == len(numbers["kept"]) == 49
    assert numbers["full"]["kv_mib"] > 2 * numbers["pruned"]["kv_mib"] > 0
    assert numbers["full"]["answer"] == "yes"


def test_only_what_is_meant_for_clients_is_offered(connect):
    offered = connect().view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(offered) == {"/ask", "/compare_methods", "/compare_budgets", "/cancel"}


@pytest.mark.parametrize("name", ["/compare_methods", "/compare_budgets"])
def test_a_comparison_streams(connect, name):
    from gradio_client import handle_file

    job = connect().submit(handle_file(str(SCENE)), QUESTION, *VALUES, api_name=name)
    progress, grid, numbers = job.result(timeout=120)
    assert "Done:" in progress
    assert len(numbers) == grid.count("<figure")
    steps = [output[0] for output in job.outputs()]
    assert len(steps) > 3
    assert "<progress" in steps[0]


def test_users_at_the_same_time_get_what_each_gets_alone(connect):
    ways = [
        (SCENE, QUESTION, ("visionzip", 24, "none", "ignore")),
        (OTHER, "Is there an airplane in the image?", ("divprune", 12, "none", "ignore")),
        (SCENE, "Is there a dog in the image?", ("random", 9, "pai", "ignore")),
        (OTHER, "What color is the umbrella?", ("cls", 25, "none", "ignore")),
    ]
    first = [asked(connect(), *way) for way in ways]
    with ThreadPoolExecutor(len(ways)) as users:
        again = list(users.map(lambda way: asked(connect(), *way), ways))
    for one, other in zip(first, again, strict=True):
        assert one == other


def sentence(client, value, question=QUESTION, values=VALUES) -> str:
    """What a user is told."""
    return client.predict(value, question, *values, api_name="/ask")[0]


def test_mistakes_are_sentences(connect, tmp_path):
    from gradio_client import handle_file

    client = connect()
    broken = tmp_path / "broken.png"
    broken.write_bytes(SCENE.read_bytes()[:900])
    drawing = tmp_path / "drawing.svg"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    scene = handle_file(str(SCENE))
    assert "Choose an image first" in sentence(client, None)
    assert "is damaged or incomplete" in sentence(client, handle_file(str(broken)))
    assert "is not an image that can be read" in sentence(client, handle_file(str(drawing)))
    assert "Type a question" in sentence(client, scene, " ")
    assert "sink" in sentence(client, scene, values=("cls", 49, "none", "only"))
    assert asked(client, SCENE)["full"]["answer"] == "yes"


class Counting(BaseHTTPRequestHandler):
    """A stranger's server that nobody should ask."""

    asked = 0

    def do_GET(self):
        type(self).asked += 1
        self.send_response(200)
        self.end_headers()

    do_HEAD = do_GET


@pytest.fixture
def stranger():
    served = HTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/picture.png"
    served.shutdown()
    served.server_close()


FILE = {"meta": {"_type": "gradio.FileData"}}


def called(server, image: dict) -> str:
    """The events of a call with a file that the client names itself."""
    body = json.dumps({"data": [image, QUESTION, *VALUES]}).encode()
    address = f"{server.url}/gradio_api/call/ask"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}", timeout=60) as reply:
        return reply.read().decode()


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "/proc/self/environ", ""])
def test_no_path_of_a_client_is_opened(server, path):
    told = called(server, {"path": path, **FILE})
    assert "event: error" in told
    assert "root:" not in told
    assert "Traceback" not in told


def test_no_address_of_a_client_is_fetched(server, stranger):
    for image in ({"path": stranger}, {"path": "x.png", "url": stranger}, {"url": stranger}):
        told = called(server, {**image, **FILE})
        assert "event: error" in told
    assert Counting.asked == 0


def test_files_of_the_machine_are_not_served(server):
    for path in ("/etc/passwd", str(SCENE), str(asset("__init__.py"))):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{server.url}/gradio_api/file={path}", timeout=10)
        assert error.value.code in (403, 404)


def test_it_listens_on_the_loopback_only(server):
    port = int(server.url.rsplit(":", 1)[1])
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False)
    for address in addresses.stdout.split():
        if ":" in address or address.startswith("127."):
            continue
        with pytest.raises(OSError, match="refused|timed out|unreachable"):
            socket.create_connection((address, port), timeout=2).close()


def test_a_cancelled_comparison_ends(connect):
    from gradio_client import handle_file

    client = connect()
    fresh = "How many elephants are in the image?"
    job = client.submit(handle_file(str(OTHER)), fresh, *VALUES, api_name="/compare_methods")
    while not job.outputs():
        time.sleep(0.02)
    assert "Cancelled" in client.predict(api_name="/cancel")
    job.result(timeout=60)
    assert "Cancelled" in job.outputs()[-1][0]
    assert asked(client, SCENE)["full"]["answer"] == "yes"


def test_no_request_failed_on_the_server(server):
    """Last: of all of the above, gradio alone refused something, namely paths and addresses."""
    log = server.log.read_text()
    assert "a request failed" not in log
    assert "lvlm_prune/demo/engine.py" not in log
