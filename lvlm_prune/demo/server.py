"""Start the demo: load the model, answer the first example, serve the page.

In: a model and an address. Out: a running server. It listens on the loopback only, unless another
host or a public link is asked for, and nothing on the page comes from elsewhere: no analytics, no
fonts or scripts of others. What reaches it is in `gate`, how it ends in `ending`.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from lvlm_prune.demo.address import check_address, names, taken, written
from lvlm_prune.demo.ending import ending
from lvlm_prune.demo.gate import Gate
from lvlm_prune.demo.memory import limit_arenas
from lvlm_prune.demo.upload_space import UploadSpace
from lvlm_prune.images import MAX_BYTES

SESSIONS = 256  # pages whose slider range is remembered; older ones start from the first image's
STYLE = Path(__file__).with_name("page.css")
# The settings of gradio's that name an address; all others could open what is closed here.
ADDRESSES = frozenset(
    f"GRADIO_{name}"
    for name in ("NUM_PORTS", "ROOT_PATH", "SERVER_NAME", "SERVER_PORT", "SHARE_SERVER_ADDRESS")
)


def serve(
    model: str | None,
    device: str,
    plant: bool,
    host: str,
    port: int | None,
    share: bool,
    max_new_tokens: int,
) -> None:
    """Load a model and serve its page; a signal ends the process.

    Args:
        model: folder, hub name or name of a bundled model; None is the bundled LLaVA.
        device: torch device.
        plant: plant ViT sinks in the bundled LLaVA first.
        host: address to listen on.
        port: port to listen on; None for the first free one from 7860.
        share: also make a public link through gradio's servers.
        max_new_tokens: longest answer.

    Raises:
        ImportError: gradio is not installed.
        OSError: no such model, or an address that it cannot listen on.
        ValueError: a device that is not there.
    """
    limit_arenas()
    check_address(host, port)
    with TemporaryDirectory(prefix="lvlm-prune-demo-") as folder, ExitStack() as last:
        uploads = Path(folder).resolve()
        last.enter_context(ending(uploads))
        close_gradio(uploads)
        from lvlm_prune.demo.engine import Engine
        from lvlm_prune.demo.handlers import Handlers
        from lvlm_prune.demo.page import build_page, first_example
        from lvlm_prune.demo.page_events import USERS, WAITING
        from lvlm_prune.loading import load

        engine = Engine(load(model, device, plant), max_new_tokens=max_new_tokens)
        last.callback(engine.close)
        handlers = Handlers(engine)
        page = build_page(handlers, first_example(handlers))
        page.queue(max_size=WAITING, default_concurrency_limit=USERS)
        last.callback(stop, page)
        last.callback(handlers.jobs.close)
        launch(page, uploads, host, port, share)
        while True:
            time.sleep(3600)


def close_gradio(uploads: Path) -> None:
    """Let gradio report nothing to anybody, and open nothing but a folder of its own for uploads.

    Its settings in the environment are read when it is imported, or stand in for what is left
    empty; several servers with one folder would delete each other's files there.

    Args:
        uploads: the folder.

    Raises:
        ImportError: gradio is not installed.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        if name not in ADDRESSES:
            del os.environ[name]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the demo needs gradio; install it with: pip install 'lvlm-prune[demo]'"
        ) from error


def launch(page: Any, uploads: Path, host: str, port: int | None, share: bool) -> None:
    """Begin to serve a page, and say where.

    Args:
        page: what `build_page` made.
        uploads: the folder of `close_gradio`.
        host: see `serve`.
        port: see `serve`.
        share: see `serve`.

    Raises:
        OSError: somebody else took the port.
    """
    from starlette.middleware import Middleware

    gate = Middleware(Gate, space=UploadSpace(uploads), hosts=names(host, share))
    if share:
        typer.echo("Asking gradio's servers for a public link.")
    with _unheard() if share else nullcontext():
        try:
            _, address, link = page.launch(
                server_name=written(host),
                server_port=port,
                share=share,
                app_kwargs={"middleware": [gate]},
                prevent_thread_lock=True,
                quiet=True,
                **_settings(),
            )
        except OSError:
            raise OSError(taken(host, port)) from None
    for line in lines(address, share, link):
        typer.echo(line)


@contextmanager
def _unheard() -> Iterator[None]:
    """Leave out what gradio prints where there is no link, which is about a program of its own."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def lines(address: str, share: bool, link: str | None) -> list[str]:
    """What is printed when the page is there.

    Args:
        address: on this machine.
        share: a public link was asked for.
        link: the link, or None where there is none.
    """
    said = [f"The demo is at {address} - Ctrl-C ends it."]
    if link:
        said.append(f"Public link, for anybody who has it: {link}")
    elif share:
        said.append(
            "There is no public link: gradio's servers gave none; is there a network? The address "
            "above works on this machine."
        )
    return said


def stop(page: Any) -> None:
    """End the web server of a page and its public link, without waiting for open connections.

    Args:
        page: that was launched, or not yet.
    """
    from gradio.tunneling import CURRENT_TUNNELS

    if page.is_running:
        # Whoever waits for an answer is cut off, and that is no error.
        logging.getLogger("uvicorn.error").disabled = True
        page.server.force_exit = True
        page.close(verbose=False)
    with redirect_stdout(StringIO()):
        for tunnel in CURRENT_TUNNELS:
            tunnel.kill()


def _settings() -> dict[str, Any]:
    """How the page looks, what it offers, and how much of it there is."""
    from lvlm_prune.demo.page_events import USERS

    return {
        "theme": _theme(),
        "css": STYLE.read_text(encoding="utf-8"),
        "max_file_size": MAX_BYTES,
        # Messages of the server's checks are sentences, too, and hold nothing but what was sent.
        "show_error": True,
        "footer_links": ["api"],
        "run_history": False,
        "max_threads": 2 * USERS,
        "state_session_capacity": SESSIONS,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
    }


def _theme() -> Any:
    """Blue on white with the system's own fonts."""
    import gradio as gr

    blue = gr.themes.Color(
        "#eef5fb", "#d6e8f5", "#add1ea", "#7db5db", "#4393c7", "#0072b2",
        "#00639c", "#005282", "#004268", "#003350", "#002439",
    )  # fmt: skip
    return gr.themes.Base(
        primary_hue=blue,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
    )
