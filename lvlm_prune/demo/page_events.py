"""What happens on the page: its events, connected to the handlers.

In: the parts of the page. The functions that a client may call are `ask`, `compare_methods`,
`compare_budgets` and `cancel`; everything else serves the page alone. A generator's last value is
the result; those before it say what is being done.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from lvlm_prune.demo import cards
from lvlm_prune.demo.examples import examples
from lvlm_prune.demo.handlers import AskView, CompareView, Handlers, budget_line
from lvlm_prune.demo.page_parts import ComparePart, Controls, Seen, hint
from lvlm_prune.demo.words import CHANGED, method_line

USERS = 4  # requests that run at a time; the model itself does one step at a time
WAITING = 64  # requests that may wait
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
QUIET: dict[str, Any] = {"queue": False, **HIDDEN}
# Where the answers stand below what was pressed, as on a phone, they are brought into view.
TO_ANSWERS = """() => {
    const part = document.querySelector('#see-part');
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    if (part.getBoundingClientRect().top > 0.6 * innerHeight)
        part.scrollIntoView({behavior: calm ? 'auto' : 'smooth', block: 'start'});
}"""
# A message that says so already stays, and is not read out again; so does one of work going on.
NOT_ASKED_YET = f"""now => now.includes('message busy') || now.includes('data-changed')
    ? now : {json.dumps(cards.changed(CHANGED))}"""
MODEL: dict[str, Any] = {
    "concurrency_limit": USERS,
    "concurrency_id": "model",
    "show_progress": "hidden",
}


def connect(
    page: gr.Blocks,
    handlers: Handlers,
    controls: Controls,
    seen: Seen,
    compared: ComparePart,
    total: gr.State,
) -> None:
    """Connect everything.

    Args:
        page: the page.
        handlers: what the buttons do.
        controls: the part Ask.
        seen: the part See.
        compared: the part Compare.
        total: visual tokens of the image that is shown.
    """
    _connect_ask(handlers, controls, seen, total)
    _connect_compare(handlers, controls, compared)
    _connect_controls(handlers, controls, seen, total)

    def leave(request: gr.Request) -> None:
        _cancel(handlers, request)

    page.unload(leave)


def _connect_ask(handlers: Handlers, controls: Controls, seen: Seen, total: gr.State) -> None:
    """Ask by button, by Enter or by an example; cancel."""

    def ask(
        image: str | None,
        question: str,
        method: str,
        keep: float,
        reweight: str,
        sinks: str,
        request: gr.Request,
    ) -> Iterator[Any]:
        """Answer a question with all visual tokens and with the kept ones, and measure both."""
        values = (image, question, method, keep, reweight, sinks)
        for view in handlers.ask(*values, session=_session(request)):
            yield _ask_outputs(view)

    settings: dict[str, Any] = {"inputs": controls.values(), "outputs": seen.all(), **MODEL}
    events = [
        controls.ask.click(ask, api_name="ask", **settings),
        controls.question.submit(ask, api_visibility="private", **settings),
    ]
    for begin in (controls.ask.click, controls.question.submit):
        begin(None, js=TO_ANSWERS, **QUIET)
    for button, (path, question) in zip(controls.examples, examples(), strict=True):
        button.click(None, js=TO_ANSWERS, **QUIET)
        chosen = button.click(
            _choosing(handlers, path, question, controls.image.GRADIO_CACHE),
            [controls.keep, total],
            [controls.image, controls.question, controls.keep, controls.keep_text, total],
            **HIDDEN,
        )
        events.append(chosen.then(ask, api_visibility="private", **settings))
    _connect_cancel(handlers, controls.cancel, seen.message, events, api_name="cancel")


def _ask_outputs(view: AskView) -> tuple[Any, ...]:
    """A view as the part See; without an answer only the message changes."""
    if view.answers is None:
        return (view.message, *(gr.skip() for _ in range(5)))
    return view.message, view.answers, view.kept, view.scores, view.note, view.numbers


def _choosing(
    handlers: Handlers, path: Path, question: str, uploads: str
) -> Callable[[float, int], tuple[Any, ...]]:
    """Put an example into the controls."""

    def choose(keep: float, total: int) -> tuple[Any, ...]:
        # gradio shows files of its own folder only, and empties that folder after a while.
        stored = save_file_to_cache(path, uploads)
        return stored, question, *_fitted(handlers, stored, keep, total)

    return choose


def _connect_compare(handlers: Handlers, controls: Controls, compared: ComparePart) -> None:
    """Compare; cancel."""
    outputs = [compared.progress, compared.grid, compared.numbers]
    events = [
        button.click(_comparing(function), controls.values(), outputs, api_name=name, **MODEL)
        for button, name, function in (
            (compared.methods, "compare_methods", handlers.compare_methods),
            (compared.budgets, "compare_budgets", handlers.compare_budgets),
        )
    ]
    _connect_cancel(handlers, compared.cancel, compared.progress, events, api_visibility="private")


def _comparing(function: Callable[..., Iterator[CompareView]]) -> Callable[..., Iterator[Any]]:
    """A comparison as an event of the page."""

    def compare(
        image: str | None,
        question: str,
        method: str,
        keep: float,
        reweight: str,
        sinks: str,
        request: gr.Request,
    ) -> Iterator[Any]:
        """Compare many ways to prune for one question."""
        values = (image, question, method, keep, reweight, sinks)
        for view in function(*values, session=_session(request)):
            grid = gr.skip() if view.grid is None else view.grid
            numbers = gr.skip() if view.numbers is None else view.numbers
            yield view.progress, grid, numbers

    return compare


def _connect_cancel(
    handlers: Handlers, button: gr.Button, message: gr.HTML, events: list[Any], **named: Any
) -> None:
    """Let a button end what waits or runs."""

    def cancel(request: gr.Request) -> str:
        """Cancel what runs for this session."""
        return _cancel(handlers, request)

    button.click(
        cancel, None, message, cancels=events, queue=False, show_progress="hidden", **named
    )


def _connect_controls(handlers: Handlers, controls: Controls, seen: Seen, total: gr.State) -> None:
    """The slider follows the image, its words follow the slider, the line follows the method.

    What a user sets anew is not what is shown any more, and the message says so.
    """
    for control in controls.values():
        control.input(None, seen.message, seen.message, js=NOT_ASKED_YET, **QUIET)
    # Not `change`: an example fits the slider itself, and would be followed by a second fit.
    controls.image.input(
        lambda image, keep, before: _fitted(handlers, image, keep, before),
        [controls.image, controls.keep, total],
        [controls.keep, controls.keep_text, total],
        **HIDDEN,
    )
    controls.keep.change(
        lambda keep, of: cards.budget(budget_line(keep, of)),
        [controls.keep, total],
        controls.keep_text,
        trigger_mode="always_last",
        **QUIET,
    )
    controls.method.change(
        lambda name: hint(method_line(name, handlers.refused)),
        controls.method,
        controls.method_text,
        **QUIET,
    )


def _fitted(
    handlers: Handlers, image: str | None, keep: float, before: int
) -> tuple[Any, str, int]:
    """The slider, its words and the visual tokens for an image."""
    found = handlers.budget(image, keep, before)
    return gr.Slider(maximum=found.total, value=found.keep), cards.budget(found.text), found.total


def _cancel(handlers: Handlers, request: gr.Request) -> str:
    """Cancel what runs for whoever asks."""
    return handlers.cancel(_session(request))


def _session(request: gr.Request) -> str:
    """Who asks: one page or one client."""
    return request.session_hash or ""
