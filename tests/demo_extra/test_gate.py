"""What the demo's server takes: small bodies, the page's routes, its own names and uploads."""

import asyncio
import json
import os
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from demo_extra.starting import started

import lvlm_prune
from lvlm_prune.demo.gate import MOST, MOST_UPLOADED, Gate
from lvlm_prune.demo.upload_space import BLOCK, BROKEN_OFF, UploadSpace

LARGE = 40 * 2**20


def asked(url: str, body=None, method: str | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of a reply; the connection is kept, as browsers do."""
    place = urlsplit(url)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = HTTPConnection(place.hostname, place.port, timeout=30)
    path = url.split(place.netloc, 1)[1]
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


ROUTES = ("call/ask", "queue/join", "run/predict", "cancel", "reset")


@pytest.mark.parametrize("route", ROUTES)
def test_a_large_body_is_refused_at_once_and_others_are_served(server, route):
    begun = time.monotonic()
    body = b'{"data": [' + b"1," * (LARGE // 2) + b"1]}"
    code, sentence = asked(f"{server.url}/gradio_api/{route}", body)
    assert (code, sentence) == (413, "A request may have up to 1 MiB.")
    assert asked(f"{server.url}/theme.css")[0] == 200
    assert time.monotonic() - begun < 5


def test_a_large_body_of_unknown_length_is_refused(server):
    def pieces():
        for _ in range(LARGE // 2**16):
            yield bytes(2**16)

    assert asked(f"{server.url}/gradio_api/call/ask", pieces())[0] == 413


UNUSED = (
    "POST /gradio_api/process_recording",
    "GET /gradio_api/proxy=https://a.hf.space/x",
    "GET /gradio_api/%70roxy=https://a.hf.space/x",
    "GET /gradio_api/file=http://example.org/x",
    "GET /gradio_api/file=/etc/passwd",
    "GET /gradio_api/file//etc/passwd",
    "GET /gradio_api/dev/reload",
    "GET /gradio_api/vibe-code",
    "POST /gradio_api/vibe-edit",
    "POST /gradio_api/undo-vibe-edit",
    "POST /gradio_api/vibe-starter-queries",
    "POST /gradio_api/component_server",
    "POST /gradio_api/stream/1",
    "GET /gradio_api/deep_link?session_hash=a",
    "GET /gradio_api/runs",
    "GET /gradio_api/queue/status",
    "GET /gradio_api/openapi.json",
    "GET /gradio_api/token",
    "POST /login",
    "GET /logout",
    "GET /monitoring",
    "GET /svelte/x.js",
    "GET /openapi.json",
    "GET /docs",
)


@pytest.mark.parametrize("route", UNUSED)
def test_routes_that_the_page_does_not_use_are_not_there(server, route):
    method, path = route.split()
    body = b"{}" if method == "POST" else None
    code, sentence = asked(f"{server.url}{path}", body, method, Content_Type="application/json")
    assert (code, sentence) == (404, "There is nothing at this address.")


@pytest.mark.parametrize("path", ["", "config", "theme.css", "gradio_api/info"])
def test_nothing_of_the_servers_folders_is_in_what_it_says(server, path):
    text = asked(f"{server.url}/{path}")[1]
    inside = [str(place) for place in server.temporary.glob("lvlm-prune-demo-*")]
    assert len(inside) == 1
    rest = text.replace(inside[0], "")
    for folder in (server.temporary, Path(lvlm_prune.__file__).parent, Path.home(), Path.cwd()):
        assert str(folder) not in rest
    assert "site-packages" not in rest


def test_an_example_of_the_page_is_served(server):
    config = json.loads(asked(f"{server.url}/config")[1])
    urls = [icon["url"] for part in config["components"] if (icon := part["props"].get("icon"))]
    assert urls
    for url in urls:
        with urllib.request.urlopen(url, timeout=10) as reply:
            assert reply.read(2) == b"\xff\xd8"  # JPEG


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        ("http://evil.example", 421),
        ("https://localhost.evil.example", 421),
        ("null", 421),
        ("http://localhost:7860", 200),
        ("http://[::1]:7860", 200),
    ],
)
def test_pages_of_others_are_refused(server, origin, code):
    assert asked(f"{server.url}/theme.css", Origin=origin)[0] == code


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:7860", "[::1]", "LOCALHOST:1"])
def test_its_own_names_are_answered(server, host):
    assert asked(f"{server.url}/theme.css", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "localhost.evil.example"])
def test_other_names_are_refused(server, host):
    port = urlsplit(server.url).port
    for name in (host, f"{host.split(':')[0]}:{port}"):
        code, sentence = asked(f"{server.url}/", Host=name)
        assert code == 421
        assert "127.0.0.1, [::1], localhost" in sentence


def test_the_environment_opens_nothing(gradio_client, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    opening = {"ALLOWED_PATHS": str(tmp_path), "TEMP_DIR": str(tmp_path), "VIBE_MODE": "1"}
    more = {"MCP_SERVER": "True", "SHARE": "True", "NUM_WORKERS": "1", "DEBUG": "1"}
    named = {f"GRADIO_{name}": value for name, value in {**opening, **more}.items()}
    with started(tmp_path, **named) as server:
        for path in (f"file={secret}", "vibe-code", "mcp/schema"):
            code, text = asked(f"{server.url}/gradio_api/{path}")
            assert (code, "a secret" in text) == (404, False)
        reply = json.loads(asked(f"{server.url}/config")[1])
        assert str(tmp_path / "files") in json.dumps(reply)


def test_an_upload_that_is_broken_off_is_no_error_of_the_servers(server):
    place, logged = urlsplit(server.url), server.log.read_text()
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 9000\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
        '--B\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    )
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(head.encode() + b"x" * 100)
        time.sleep(0.5)
    time.sleep(0.5)
    assert asked(f"{server.url}/theme.css")[0] == 200
    assert server.log.read_text() == logged


async def stored(scope, receive, send) -> None:
    """Take a request and say so."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"stored"})


def upload(gate: Gate, length: int | None) -> tuple[int, str]:
    """An upload through a gate."""
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "path": "/gradio_api/upload", "headers": headers}
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    # In a thread of its own: the browser's tests leave a running loop in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, gate(scope, receive, send)).result()
    return sent[0]["status"], sent[1]["body"].decode()


def test_an_upload_beyond_the_room_is_refused_until_there_is_room_again(tmp_path, monkeypatch):
    monkeypatch.setattr("lvlm_prune.demo.upload_space.AGAIN", 0.0)
    gate = Gate(stored, UploadSpace(tmp_path, 64 * 2**20), None)
    assert upload(gate, 2**20) == (200, "stored")
    large = tmp_path / "one" / "large.png"
    large.parent.mkdir()
    large.write_bytes(bytes(63 * 2**20))
    for _ in range(8):
        code, sentence = upload(gate, 2**20)
    assert code == 507
    assert "too many uploads" in sentence
    large.unlink()
    assert upload(gate, 2**20) == (200, "stored")


@pytest.mark.parametrize(("length", "code"), [(None, 411), (MOST_UPLOADED + 1, 413), (MOST, 200)])
def test_an_upload_says_its_length(tmp_path, length, code):
    assert upload(Gate(stored, UploadSpace(tmp_path), None), length)[0] == code


def test_many_small_files_count_as_what_they_take(tmp_path):
    space = UploadSpace(tmp_path, 2 * 2**20)
    taken = [space.take(64 * 100) for _ in range(4)]
    assert taken[0] is not None
    assert taken[0] > 100 * 2 * BLOCK
    assert taken[-1] is None


def test_uploads_that_were_broken_off_leave_nothing(tmp_path):
    space = UploadSpace(tmp_path, 2**20)
    old, new = tmp_path / "tmpold", tmp_path / "tmpnew"
    for path in (old, new):
        path.write_bytes(bytes(2**19))
    os.utime(old, (0, time.time() - BROKEN_OFF - 1))
    space.take(2**19)
    assert space.take(2**19) is None
    assert new.exists()
    assert not old.exists()
