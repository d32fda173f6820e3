"""Start the demo: load the model, answer the first example, serve the page.

In: a model and an address. Out: a running server. It listens on the loopback only, unless another
host or a public link is asked for, and nothing on the page comes from elsewhere: no analytics, no
fonts or scripts of others.
"""

import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lvlm_prune.demo.memory import limit_arenas
from lvlm_prune.images import MAX_BYTES

SESSIONS = 256  # pages whose slider range is remembered; older ones start from the first image's
STYLE = Path(__file__).with_name("page.css")


def serve(
    model: str | None,
    device: str,
    plant: bool,
    host: str,
    port: int | None,
    share: bool,
    max_new_tokens: int,
) -> None:
    """Load a model and serve its page until interrupted.

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
        OSError: no such model, or the port is taken.
        ValueError: a device that is not there.
    """
    limit_arenas()
    signal.signal(signal.SIGTERM, _end)
    with TemporaryDirectory(prefix="lvlm-prune-demo-") as uploads:
        close_gradio(uploads)
        from lvlm_prune.demo.engine import Engine
        from lvlm_prune.demo.handlers import Handlers
        from lvlm_prune.demo.page import build_page, first_example
        from lvlm_prune.loading import load

        engine = Engine(load(model, device, plant), max_new_tokens=max_new_tokens)
        handlers = Handlers(engine)
        page = build_page(handlers, first_example(handlers))
        launch(page, host, port, share)


def _end(number: int, frame: Any) -> None:
    """Leave as after Ctrl-C, with the uploads deleted."""
    raise KeyboardInterrupt


def close_gradio(uploads: str) -> None:
    """Let gradio report nothing to anybody, and give it a folder of its own for uploads.

    Both are read once, when it is imported. Several servers would otherwise share one folder, and
    delete each other's files there.

    Args:
        uploads: a folder; one that the user names in GRADIO_TEMP_DIR comes first.

    Raises:
        ImportError: gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("GRADIO_TEMP_DIR", uploads)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the demo needs gradio; install it with: pip install 'lvlm-prune[demo]'"
        ) from error


def launch(page: Any, host: str, port: int | None, share: bool, wait: bool = True) -> str:
    """Serve a page.

    Args:
        page: what `build_page` made.
        host: see `serve`.
        port: see `serve`.
        share: see `serve`.
        wait: stay until interrupted.

    Returns:
        The local address.
    """
    from lvlm_prune.demo.page_events import USERS, WAITING

    _, address, _ = page.queue(max_size=WAITING, default_concurrency_limit=USERS).launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=_theme(),
        css=STYLE.read_text(encoding="utf-8"),
        allowed_paths=[],
        max_file_size=MAX_BYTES,
        # Messages of the server's checks are sentences, too, and hold nothing but what was sent.
        show_error=True,
        footer_links=["api"],
        run_history=False,
        max_threads=2 * USERS,
        state_session_capacity=SESSIONS,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        prevent_thread_lock=not wait,
    )
    return address


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
