"""What reaches gradio: requests of the page and of clients, of a bounded size, for a known host.

In: every HTTP request, as ASGI. Out: the same to gradio, or a refusal in one sentence. gradio's
server reads bodies of any size, answers whatever name it is asked by, and has many more routes than
this page uses: to fetch addresses, to edit code, to record screens. It knows nothing of the page.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lvlm_prune.demo.upload_space import UploadSpace
from lvlm_prune.images import MAX_BYTES

MOST = 2**20  # bytes of a body that is no upload
MOST_UPLOADED = MAX_BYTES + 2**20  # bytes of an image, its name and what stands around it
PAGE = frozenset({"/", "/config", "/theme.css", "/favicon.ico", "/robots.txt"})
API = frozenset(
    f"/gradio_api/{name}"
    for name in (
        "app_id", "cancel", "info", "queue/data", "queue/join", "reset", "startup-events",
        "theme.css", "upload", "upload_progress",
    )
)  # fmt: skip
BELOW = ("/assets/", "/static/", "/gradio_api/call/", "/gradio_api/heartbeat/", "/gradio_api/run/")
FILE = "/gradio_api/file="
UPLOAD = "/gradio_api/upload"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class RefusedError(Exception):
    """A request that goes no further.

    Args:
        status: of HTTP.
        sentence: why.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Gate:
    """ASGI middleware in front of gradio.

    Args:
        app: gradio.
        space: of the uploads.
        hosts: names that the server answers to, without ports; None for all.
    """

    def __init__(self, app: App, space: UploadSpace, hosts: Collection[str] | None) -> None:
        self.app = app
        self.space = space
        self.hosts = hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._let_through(scope, receive, send)
            except RefusedError as refused:
                await _answer(send, refused)

    async def _let_through(self, scope: Message, receive: Receive, send: Send) -> None:
        """Check a request and hand it on.

        Raises:
            RefusedError: it goes no further.
        """
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_host(headers.get(b"host", ""))
        # A stranger's page can send an upload here without asking, but says where it is from.
        if b"origin" in headers:
            self._check_host(headers[b"origin"].partition("://")[2])
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        self._check_path(path)
        size = _declared(headers)
        if path != UPLOAD:
            await self.app(scope, _replay(await _whole(receive, size), receive), send)
            return
        with await self._room(size):
            await self._store(scope, receive, send)

    async def _store(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand an upload on; that somebody broke it off is no error of the server's."""
        gone = False

        async def listened() -> Message:
            nonlocal gone
            message = await receive()
            gone = message["type"] == "http.disconnect"
            return message

        try:
            await self.app(scope, listened, send)
        except Exception:
            if not gone:
                raise

    def _check_host(self, host: str) -> None:
        """Refuse names that are not the server's; a stranger's page can point one at it."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.hosts is not None and name.lower() not in self.hosts:
            raise RefusedError(421, f"This demo answers only to {', '.join(sorted(self.hosts))}.")

    def _check_path(self, path: str) -> None:
        """Refuse what the page does not use, and files outside of the uploads."""
        if path in PAGE or path in API or path.startswith(BELOW):
            return
        if path.startswith(FILE) and Path(path[len(FILE) :]).is_relative_to(self.space.folder):
            return
        raise RefusedError(404, "There is nothing at this address.")

    async def _room(self, size: int | None) -> Any:
        """The room of an upload while it is stored."""
        if size is None:
            raise RefusedError(411, "Say how long the upload is (Content-Length).")
        if size > MOST_UPLOADED:
            raise RefusedError(413, f"An upload may have up to {MAX_BYTES // 2**20} MiB.")
        cost = await asyncio.to_thread(self.space.take, size)
        if cost is None:
            raise RefusedError(507, "The demo holds too many uploads; try again in an hour.")
        return self._held(cost)

    @contextmanager
    def _held(self, cost: int) -> Iterator[None]:
        """Count an upload as being written inside the block."""
        try:
            yield
        finally:
            self.space.written(cost)


def _declared(headers: dict[bytes, str]) -> int | None:
    """How long the body is said to be; None where nothing is said."""
    said = headers.get(b"content-length", "")
    return int(said) if said.isdecimal() else None


async def _whole(receive: Receive, declared: int | None) -> list[Message]:
    """The messages of a body, up to its end.

    Raises:
        RefusedError: it is, or says that it is, larger than `MOST`.
    """
    messages: list[Message] = []
    size, more = declared or 0, True
    while more and size <= MOST:
        messages.append(await receive())
        size = max(size, sum(len(message.get("body", b"")) for message in messages))
        more = messages[-1].get("more_body", False)
    if size > MOST:
        raise RefusedError(413, f"A request may have up to {MOST // 2**20} MiB.")
    return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """Messages that were read already, and then those to come."""
    waiting = iter(messages)

    async def replay() -> Message:
        for message in waiting:
            return message
        return await receive()

    return replay


async def _answer(send: Send, refused: RefusedError) -> None:
    """Send a refusal."""
    body = str(refused).encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
