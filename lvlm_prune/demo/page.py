"""The page: one column of controls beside what came of them, and comparisons below.

In: the handlers and the first example, already answered. Out: gradio `Blocks`. Every control has a
label and a line that explains it, an `elem_id`, and what it does is a function of `handlers`; this
file only lays out and connects. Names of the client's functions: `ask`, `compare_methods`,
`compare_budgets`, `cancel`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from lvlm_prune.capabilities import refused_methods
from lvlm_prune.config import SINK_POLICIES
from lvlm_prune.demo.examples import examples
from lvlm_prune.demo.handlers import AskView, CompareView, Handlers, budget_text
from lvlm_prune.demo.settings import NO_REWEIGHTING, Asking, Settings
from lvlm_prune.demo.upload_box import UploadBox
from lvlm_prune.demo.uploads import LIMITS, read_upload
from lvlm_prune.demo.words import HELP, LEAD, SINKS, TITLE, method_line, reweightings
from lvlm_prune.methods import METHODS

USERS = 4  # requests that run at a time; the model itself does one step at a time
WAITING = 64  # requests that may wait
KEPT_SECONDS = 3600  # uploads and pictures are deleted after this time
MODEL_QUEUE: dict[str, Any] = {"concurrency_limit": USERS, "concurrency_id": "model"}
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Controls:
    """What is asked, in the order of the handlers' arguments."""

    image: gr.Image
    question: gr.Textbox
    method: gr.Dropdown
    keep: gr.Slider
    reweight: gr.Dropdown
    sinks: gr.Radio

    def all(self) -> list[Any]:
        """As inputs of an event."""
        return [self.image, self.question, self.method, self.keep, self.reweight, self.sinks]


@dataclass(frozen=True)
class First:
    """The example that the page opens with."""

    path: str
    asking: Asking
    settings: Settings
    total: int
    view: AskView


def first_example(handlers: Handlers) -> First:
    """Answer the first example, so that the page opens with a result."""
    path, question = examples()[0]
    asking = Asking(*read_upload(str(path)), question)
    total = handlers.engine.visual_tokens(asking)
    settings = Settings("visionzip", max(1, round(total / 8)))
    view = handlers.shown(asking, settings, handlers.engine.ask(asking, settings))
    return First(str(path), asking, settings, total, view)


def build_page(handlers: Handlers, first: First) -> gr.Blocks:
    """Lay the page out and connect it.

    Args:
        handlers: the functions of the buttons.
        first: what is shown before anything was asked.
    """
    with gr.Blocks(
        title=f"{TITLE}: demo",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS),
    ) as page:
        total = gr.State(first.total)
        gr.HTML(_header(handlers.engine.loaded.label), elem_id="header")
        with gr.Row(equal_height=False, elem_id="workbench"):
            with gr.Column(scale=5, min_width=320, elem_id="ask-part"):
                controls, budget, buttons = _ask_part(handlers, first)
            with gr.Column(scale=7, min_width=320, elem_id="see-part"):
                shown = _see_part(first)
        with gr.Column(elem_id="compare-part"):
            compare, compared = _compare_part()
        _connect_ask(handlers, controls, buttons, shown)
        _connect_compare(handlers, controls, compare, compared)
        _connect_controls(handlers, controls, budget, total)
        page.unload(_leaving(handlers))
    return page


def _header(model: str) -> str:
    """What this is, in a few lines."""
    return (
        f'<header><h1>{TITLE}</h1><p class="lead">{LEAD}</p>'
        f'<p class="fine">Model: <b>{escape(model)}</b>. Everything runs on the '
        "machine that serves this page.</p></header>"
    )


def _ask_part(handlers: Handlers, first: First) -> tuple[Controls, gr.HTML, list[gr.Button]]:
    """Image, question and settings."""
    gr.HTML("<h2>1. Ask</h2>")
    image = UploadBox(
        first.path,
        label="Image",
        type="filepath",
        sources=["upload", "clipboard"],
        height=260,
        elem_id="image",
    )
    gr.HTML(f'<p class="hint">{HELP["image"]} {LIMITS}</p>')
    question = gr.Textbox(
        first.asking.question,
        label="Question",
        info=HELP["question"],
        lines=1,
        elem_id="question",
    )
    with gr.Row(elem_id="ask-buttons"):
        ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=2, min_width=120)
        cancel = gr.Button("Cancel", elem_id="cancel", scale=1, min_width=90)
    gr.HTML(f'<p class="hint">{HELP["ask"]} Cancel: {HELP["cancel"].lower()}</p>')
    method, what = _method_box(handlers, first)
    keep = gr.Slider(
        1,
        first.total,
        first.settings.keep,
        step=1,
        label="Visual tokens to keep",
        info=HELP["keep"],
        elem_id="keep",
    )
    text = budget_text(first.settings.keep, first.total)
    budget = gr.HTML(f'<p class="budget">{text}</p>', elem_id="keep-text")
    reweight = gr.Dropdown(
        [NO_REWEIGHTING, *reweightings()],
        value=NO_REWEIGHTING,
        label="Reweighting",
        info=HELP["reweight"],
        elem_id="reweight",
    )
    sinks = gr.Radio(
        [(SINKS[policy], policy) for policy in SINK_POLICIES],
        value="ignore",
        label="ViT sink policy",
        info=HELP["sinks"],
        elem_id="sinks",
    )
    gr.Examples(
        [[str(path), asked] for path, asked in examples()],
        [image, question],
        label="Examples",
        elem_id="examples",
    )
    refused = set(_refused(handlers))
    method.change(lambda name: _line(name, refused), method, what, js=None, **QUIET)
    return Controls(image, question, method, keep, reweight, sinks), budget, [ask, cancel]


def _refused(handlers: Handlers) -> list[str]:
    """Methods that the model cannot run."""
    from lvlm_prune.adapters import GenericAdapter, adapter_for

    adapter = adapter_for(handlers.engine.model)
    return refused_methods(None if isinstance(adapter, GenericAdapter) else adapter)


def _method_box(handlers: Handlers, first: First) -> tuple[gr.Dropdown, gr.HTML]:
    """The methods, and a line about the one that is chosen."""
    refused = set(_refused(handlers))
    choices = [
        (f"{name} (not on this model)" if name in refused else name, name) for name in METHODS
    ]
    method = gr.Dropdown(
        choices,
        value=first.settings.method,
        label="Method",
        info=HELP["method"],
        elem_id="method",
    )
    return method, gr.HTML(_line(first.settings.method, refused), elem_id="method-text")


def _line(name: str, refused: set[str]) -> str:
    """The line about a method."""
    return f'<p class="hint">{method_line(name, name in refused)}</p>'


def _see_part(first: First) -> list[Any]:
    """Answers and pictures."""
    view = first.view
    gr.HTML("<h2>2. See</h2>")
    message = gr.HTML(
        '<div class="message" role="status">An example is answered already. Press Ask to ask your '
        "own question.</div>",
        elem_id="message",
    )
    answers = gr.HTML(view.answers, elem_id="answers")
    kept = gr.ImageSlider(
        view.kept,
        label="Whole image | what the model still sees",
        type="pil",
        format="png",
        slider_position=35,
        elem_id="kept",
        interactive=False,
        max_height=600,
        buttons=["fullscreen"],
    )
    note = gr.HTML(view.note, elem_id="note")
    gr.HTML(f'<p class="hint">{HELP["kept"]}</p>')
    with gr.Accordion("Score map", open=True, elem_id="scores-part"):
        scores = gr.Image(
            view.scores,
            label="Scores",
            format="png",
            type="pil",
            elem_id="scores",
            interactive=False,
            height=360,
            buttons=["download", "fullscreen"],
        )
        gr.HTML(f'<p class="hint">{HELP["scores"]}</p>')
    with gr.Accordion("All numbers, as JSON", open=False, elem_id="numbers-part"):
        numbers = gr.JSON(view.numbers, label="Numbers", elem_id="numbers")
    return [message, answers, kept, scores, note, numbers]


def _compare_part() -> tuple[list[gr.Button], list[Any]]:
    """Buttons and grid of the comparisons."""
    gr.HTML("<h2>3. Compare</h2>")
    with gr.Row():
        methods = gr.Button(
            "All methods at this budget", variant="primary", elem_id="compare-methods"
        )
        budgets = gr.Button(
            "This method over budgets", variant="primary", elem_id="compare-budgets"
        )
        cancel = gr.Button("Cancel", elem_id="cancel-compare", min_width=90)
    gr.HTML(
        f'<p class="hint">{HELP["compare_methods"]} {HELP["compare_budgets"]} '
        "= and ≠ say whether the answer is the full model's.</p>"
    )
    progress = gr.HTML("", elem_id="progress")
    grid = gr.HTML("", elem_id="grid")
    with gr.Accordion("All numbers, as JSON", open=False, elem_id="compared-part"):
        numbers = gr.JSON(None, label="Numbers", elem_id="compared")
    return [methods, budgets, cancel], [progress, grid, numbers]


def _connect_ask(
    handlers: Handlers, controls: Controls, buttons: list[gr.Button], shown: list[Any]
) -> None:
    """Ask by button or Enter; cancel."""

    def ask(
        image: str | None,
        question: str,
        method: str,
        keep: float,
        reweight: str,
        sinks: str,
        request: gr.Request,
    ) -> Iterator[Any]:
        """Answer a question with all visual tokens and with the kept ones."""
        values = (image, question, method, keep, reweight, sinks)
        for view in handlers.ask(*values, session=_session(request)):
            yield _ask_outputs(view)

    button, cancel = buttons
    settings: dict[str, Any] = {
        "inputs": controls.all(),
        "outputs": shown,
        "show_progress": "hidden",
        **MODEL_QUEUE,
    }
    pressed = button.click(ask, api_name="ask", **settings)
    entered = controls.question.submit(ask, api_visibility="private", **settings)
    cancel.click(
        _cancelling(handlers),
        None,
        shown[0],
        cancels=[pressed, entered],
        queue=False,
        show_progress="hidden",
        api_name="cancel",
    )


def _ask_outputs(view: AskView) -> tuple[Any, ...]:
    """A view as the page's parts; a score map that there is none of is taken away."""
    if view.answers is None:
        return (view.message, *(gr.skip() for _ in range(5)))
    return view.message, view.answers, view.kept, view.scores, view.note, view.numbers


def _connect_compare(
    handlers: Handlers, controls: Controls, buttons: list[gr.Button], shown: list[Any]
) -> None:
    """Compare; cancel."""
    events = []
    functions: list[tuple[gr.Button, str, Callable[..., Iterator[CompareView]]]] = [
        (buttons[0], "compare_methods", handlers.compare_methods),
        (buttons[1], "compare_budgets", handlers.compare_budgets),
    ]
    for button, name, function in functions:
        events.append(
            button.click(
                _comparing(function),
                controls.all(),
                shown,
                api_name=name,
                show_progress="hidden",
                **MODEL_QUEUE,
            )
        )
    buttons[2].click(_cancelling(handlers), None, shown[0], cancels=events, **QUIET)


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
        """Compare many ways to prune."""
        values = (image, question, method, keep, reweight, sinks)
        for view in function(*values, session=_session(request)):
            grid = gr.skip() if view.grid is None else view.grid
            numbers = gr.skip() if view.numbers is None else view.numbers
            yield view.progress, grid, numbers

    return compare


def _connect_controls(
    handlers: Handlers, controls: Controls, budget: gr.HTML, total: gr.State
) -> None:
    """The slider follows the image, its words follow the slider."""

    def fit(image: str | None, keep: float, before: int) -> tuple[Any, str, int]:
        found = handlers.budget(image, keep, before)
        slider = gr.Slider(maximum=found.total, value=found.keep)
        return slider, f'<p class="budget">{found.text}</p>', found.total

    inputs = [controls.image, controls.keep, total]
    controls.image.change(
        fit,
        inputs,
        [controls.keep, budget, total],
        show_progress="hidden",
        api_visibility="private",
    )
    controls.keep.change(
        lambda keep, of: f'<p class="budget">{budget_text(keep, of)}</p>',
        [controls.keep, total],
        budget,
        trigger_mode="always_last",
        **QUIET,
    )


def _cancelling(handlers: Handlers) -> Callable[[gr.Request], str]:
    """Cancel what runs for a session."""

    def cancel(request: gr.Request) -> str:
        """Cancel what runs for this session."""
        return handlers.cancel(_session(request))

    return cancel


def _leaving(handlers: Handlers) -> Callable[[gr.Request], None]:
    """Cancel what runs for a page that was closed."""

    def leave(request: gr.Request) -> None:
        handlers.jobs.cancel(_session(request))

    return leave


def _session(request: gr.Request) -> str:
    """Who asks: one page or one client."""
    return request.session_hash or ""
