"""Files and values meant to harm the demo: each gets a sentence, and the next user an answer.

Everything goes through the real server. Files are made here, byte by byte where no tool would write
them.
"""

import io
import json
import re
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from lvlm_prune.assets import asset

SCENE = asset("probe", "images", "scene_000001.jpg")
QUESTION = "Is there a giraffe in the image?"
VALUES = ("visionzip", 49, "none", "ignore")
FILE = {"meta": {"_type": "gradio.FileData"}}
# MiB that no attack may cost; the processor holds a few copies of the largest image allowed.
MOST = 900


@pytest.fixture(scope="module")
def client(gradio_client, server):
    return gradio_client.Client(server.url, verbose=False, analytics_enabled=False)


@pytest.fixture(autouse=True)
def alive(client, server):
    """After every attack the server answers as it did before, and nothing was left on its log."""
    before, logged = peak(server.pid), server.log.stat().st_size
    yield
    from gradio_client import handle_file

    output = client.predict(handle_file(str(SCENE)), QUESTION, *VALUES, api_name="/ask")
    assert output[5]["full"]["answer"] == "yes"
    assert len(output[5]["kept"]) == 49
    assert b"a request failed" not in server.log.read_bytes()[logged:]
    assert peak(server.pid) - before < MOST


def peak(pid: int) -> float:
    """MiB that a process has had in memory at most."""
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def told(client, image: Any, question: Any = QUESTION, values: tuple = VALUES) -> tuple[Any, ...]:
    """What a client is told: all outputs, or the sentence of the error in their place."""
    from gradio_client.exceptions import AppError

    try:
        return client.predict(image, question, *values, api_name="/ask")
    except AppError as error:
        return (str(error),)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG file with a header that says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def packed(count: int) -> bytes:
    """Many zeros in few bytes."""
    squeezer = zlib.compressobj(9)
    step = bytes(2**20)
    parts = [squeezer.compress(step) for _ in range(count // len(step))]
    return b"".join([*parts, squeezer.compress(bytes(count % len(step))), squeezer.flush()])


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
XXE = b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "bomb": ("bomb.png", lambda: png(20_000, 20_000, packed(20_000 * 20_001)), "million pixels"),
    "header": ("big.png", lambda: png(30_000, 30_000, b""), "million pixels"),
    "most": ("most.png", lambda: png(2**31 - 1, 2**31 - 1, b""), "million pixels"),
    "no pixels": ("none.png", lambda: png(0, 7, b""), "not an image|no pixels|damaged"),
    "long row": ("row.png", lambda: png(100_000, 1, packed(100_001)), "too small"),
    "long column": ("column.png", lambda: png(20, 11_000, packed(21 * 11_000)), "too large"),
    "narrow": ("narrow.png", lambda: png(20, 2_000, packed(21 * 2_000)), "too narrow"),
    "too few data": ("few.png", lambda: png(500, 500, packed(100)), "damaged"),
    "no data": ("no.png", lambda: png(500, 500, b""), "damaged"),
    "cut JPEG": ("cut.jpg", lambda: SCENE.read_bytes()[:900], "damaged"),
    "head of JPEG": ("head.jpg", lambda: b"\xff\xd8\xff\xe0", "not an image"),
    "text": ("text.png", lambda: b"root:x:0:0 is only text\n" * 50, "not an image"),
    "SVG": ("drawing.svg", lambda: SVG, "not an image"),
    "SVG as PNG": ("drawing.png", lambda: XXE, "not an image"),
    "HTML": ("page.html", lambda: b"<script>alert(1)</script>", "not an image"),
    "TIFF": ("scan.tiff", lambda: written(Image.new("L", (64, 64)), "TIFF"), "not an image"),
    "EPS": ("print.jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\nquit\n", "not an image"),
    "empty": ("empty.png", lambda: b"", "empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_refused_in_a_sentence(client, tmp_path, name):
    from gradio_client import handle_file

    file, made, reason = REFUSED[name]
    path = tmp_path / file
    path.write_bytes(made())
    sentence, *rest = told(client, handle_file(str(path)))
    assert re.search(reason, sentence)
    assert not any(isinstance(part, dict) and "kept" in part for part in rest)
    assert_nothing_leaks(sentence)


def frames() -> bytes:
    images = [Image.new("RGB", (160, 120), (40 * number, 90, 200)) for number in range(5)]
    return written(images[0], "GIF", save_all=True, append_images=images[1:], duration=50)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return written(Image.open(SCENE), "JPEG", exif=exif.tobytes())


UNUSUAL: dict[str, tuple[str, Callable[[], bytes]]] = {
    "animation": ("moving.gif", frames),
    "CMYK": ("print.jpg", lambda: written(Image.new("CMYK", (200, 150), (9, 80, 160, 2)), "JPEG")),
    "16 bit": ("deep.png", lambda: written(Image.new("I;16", (200, 150), 40_000), "PNG")),
    "transparent": ("glass.png", lambda: written(Image.new("RGBA", (90, 90), (1, 2, 3, 4)), "PNG")),
    "bilevel": ("fax.png", lambda: written(Image.new("1", (99, 77), 1), "PNG")),
    "turned": ("turned.jpg", turned),
    "PNG as JPEG": ("not.jpg", lambda: written(Image.open(SCENE), "PNG")),
    "hostile name": ("<img src=x onerror=alert(1)>.png", lambda: png(50, 50, packed(51 * 50))),
    "large": ("large.png", lambda: png(7_000, 7_000, packed(7_000 * 7_001))),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_file_is_answered(client, tmp_path, name):
    from gradio_client import handle_file

    file, made = UNUSUAL[name]
    path = tmp_path / file
    path.write_bytes(made())
    message, *_, numbers = told(client, handle_file(str(path)))
    assert "Done." in message
    assert len(numbers["kept"]) == 49


def assert_nothing_leaks(text: str) -> None:
    """Neither files of the machine, nor where they are, nor how the program looks inside."""
    for secret in ("root:", "/root/", "/tmp", "/bin/", "Traceback", "lvlm_prune/", "site-packages"):
        assert secret not in text


def called(server, data: Any, name: str = "ask") -> str:
    """The events of a call with a body of one's own, or the refusal's text."""
    address = f"{server.url}/gradio_api/call/{name}"
    body = data if isinstance(data, bytes) else json.dumps({"data": data}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            event = json.load(reply)["event_id"]
        with urllib.request.urlopen(f"{address}/{event}", timeout=60) as reply:
            return reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


FOREIGN: list[Any] = [
    {"path": "/etc/passwd", **FILE},
    {"path": "file:///etc/passwd", **FILE},
    {"path": "../../../../etc/passwd", **FILE},
    {"path": str(SCENE), **FILE},
    {"path": "/proc/self/environ", "orig_name": "a.png", "mime_type": "image/png", **FILE},
    {"path": "/", **FILE},
    {"path": "a\0b", **FILE},
    {"path": "http://127.0.0.1:9/a.png", **FILE},
    {"path": None, "url": "http://169.254.169.254/latest/meta-data", **FILE},
    {"path": "a.png", "url": "file:///etc/passwd", **FILE},
    {"url": "data:image/png;base64,AAAA", **FILE},
    {"path": "a" * 100_000, **FILE},
    "/etc/passwd",
    "file:///etc/passwd",
    ["/etc/passwd"],
    {"path": ["/etc/passwd"], **FILE},
    {"path": {"path": "/etc/passwd"}, **FILE},
    7,
    True,
    {},
]


@pytest.mark.parametrize("image", FOREIGN, ids=lambda image: str(image)[:50])
@pytest.mark.parametrize("name", ["ask", "compare_methods"])
def test_no_file_or_address_that_a_client_names_is_used(server, image, name):
    reply = called(server, [image, QUESTION, *VALUES], name)
    assert "event: error" in reply or "event: complete" not in reply
    assert "kept" not in reply
    assert_nothing_leaks(reply)


QUESTIONS = [
    "a" * 501,
    "why? " * 200_000,
    "<image>" * 9,
    "\0",
    " \n\t ",
    "",
    None,
    7,
    ["Is there a cat?"],
    {"path": "/etc/passwd", **FILE},
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: repr(question)[:30])
def test_a_question_that_cannot_be_asked_is_a_sentence(client, question):
    from gradio_client import handle_file

    sentence, *_ = told(client, handle_file(str(SCENE)), question)
    assert sentence
    assert_nothing_leaks(sentence)


def test_markup_in_a_question_stays_text(client):
    from gradio_client import handle_file

    attack = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    outputs = told(client, handle_file(str(SCENE)), attack)
    shown = "".join(part for part in outputs if isinstance(part, str))
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown
    assert "<img src=x" not in shown


SETTINGS: list[tuple[Any, ...]] = [
    ("visionzip", 0, "none", "ignore"),
    ("visionzip", -5, "none", "ignore"),
    ("visionzip", 10**9, "none", "ignore"),
    ("visionzip", 1e308, "none", "ignore"),
    ("visionzip", 2.5, "none", "ignore"),
    ("visionzip", "49", "none", "ignore"),
    ("visionzip", None, "none", "ignore"),
    ("visionzip", True, "none", "ignore"),
    ("visionzip", [49], "none", "ignore"),
    ("no_such_method", 49, "none", "ignore"),
    ("../../etc/passwd", 49, "none", "ignore"),
    ("<b>bold</b>", 49, "none", "ignore"),
    (None, 49, "none", "ignore"),
    (["visionzip", "cls"], 49, "none", "ignore"),
    ({"a": 1}, 49, "none", "ignore"),
    ("visionzip", 49, "no_such", "ignore"),
    ("visionzip", 49, "pai:no_such", "ignore"),
    ("visionzip", 49, None, "ignore"),
    ("visionzip", 49, "none", "no_such"),
    ("visionzip", 49, "none", ["ignore"]),
]


@pytest.mark.parametrize("values", SETTINGS, ids=str)
def test_settings_that_do_not_exist_are_a_sentence(client, values):
    from gradio_client import handle_file

    sentence, *rest = told(client, handle_file(str(SCENE)), values=values)
    assert sentence
    assert "Done." not in sentence
    assert "Something failed inside" not in sentence
    assert_nothing_leaks(sentence)


BODIES = [b"", b"{", b"[]", b"null", b'{"data": 3}', b'{"data": []}', b'{"data": [[[[[[1]]]]]]}']
BODIES += [b"[" * 100_000, b'{"data": [NaN, Infinity, -1, 2, 3, 4]}', b"\xff\xfe\x00"]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:24])
def test_a_broken_body_is_refused(server, body):
    reply = called(server, body)
    assert "event: complete" not in reply or "Please note" in reply
    assert_nothing_leaks(reply)


def test_too_large_an_upload_is_refused(client, tmp_path):
    from gradio_client import handle_file

    path = tmp_path / "large.png"
    with path.open("wb") as stream:
        stream.truncate(70 * 2**20)
    with pytest.raises(Exception, match="413|size|large"):
        client.predict(handle_file(str(path)), QUESTION, *VALUES, api_name="/ask")
