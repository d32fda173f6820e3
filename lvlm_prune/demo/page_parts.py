"""The three parts of the page: Ask, See, Compare. Labels, explanations and `elem_id`s are here.

In: what the page opens with. Out: gradio components, laid out where the caller stands. What they do
is connected in `page_events`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lvlm_prune.config import SINK_POLICIES
from lvlm_prune.demo import cards
from lvlm_prune.demo.examples import examples
from lvlm_prune.demo.handlers import AskView, budget_text
from lvlm_prune.demo.keep_slider import KeepSlider
from lvlm_prune.demo.settings import NO_REWEIGHTING, Settings
from lvlm_prune.demo.upload_box import UploadBox
from lvlm_prune.demo.uploads import LIMITS
from lvlm_prune.demo.words import (
    GLOSSARY,
    HELP,
    SINKS,
    method_line,
    reweightings,
)
from lvlm_prune.methods import METHODS


@dataclass(frozen=True)
class Opening:
    """What the controls say when the page opens.

    Args:
        path: of the image.
        question: about it.
        settings: how it was pruned.
        total: its visual tokens.
    """

    path: str
    question: str
    settings: Settings
    total: int


@dataclass(frozen=True)
class Controls:
    """What is asked, and the buttons and lines beside it."""

    image: Any
    question: gr.Textbox
    method: gr.Dropdown
    keep: Any
    reweight: gr.Dropdown
    sinks: gr.Radio
    ask: gr.Button
    cancel: gr.Button
    examples: list[gr.Button]
    method_text: gr.HTML
    keep_text: gr.HTML

    def values(self) -> list[Any]:
        """Inputs of an event, in the order of the handlers' arguments."""
        return [self.image, self.question, self.method, self.keep, self.reweight, self.sinks]


@dataclass(frozen=True)
class Seen:
    """Where an answer is shown."""

    message: gr.HTML
    answers: gr.HTML
    kept: gr.HTML
    scores: gr.HTML
    note: gr.HTML
    numbers: gr.JSON

    def all(self) -> list[Any]:
        """Outputs of an event."""
        return [self.message, self.answers, self.kept, self.scores, self.note, self.numbers]


@dataclass(frozen=True)
class ComparePart:
    """Buttons of the comparisons, and where they are shown."""

    methods: gr.Button
    budgets: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    grid: gr.HTML
    numbers: gr.JSON


def ask_part(opening: Opening, refused: Collection[str]) -> Controls:
    """Image, question and settings.

    Args:
        opening: what they say at first.
        refused: methods that the model cannot run.
    """
    gr.HTML("<h2>1. Ask</h2>")
    image = UploadBox(
        opening.path,
        label="Image",
        type="filepath",
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
        height=240,
        elem_id="image",
    )
    gr.HTML(f'<p class="hint">{HELP["image"]} {LIMITS}</p>')
    shortcuts = _example_buttons()
    question = gr.Textbox(
        opening.question, label="Question", info=HELP["question"], lines=1, elem_id="question"
    )
    method = gr.Dropdown(
        [(f"{name} (not on this model)" if name in refused else name, name) for name in METHODS],
        value=opening.settings.method,
        label="Method",
        info=HELP["method"],
        elem_id="method",
    )
    method_text = gr.HTML(
        hint(method_line(opening.settings.method, refused)), elem_id="method-text"
    )
    keep = KeepSlider(
        1,
        opening.total,
        opening.settings.keep,
        step=1,
        label="Visual tokens to keep",
        info=HELP["keep"],
        elem_id="keep",
    )
    keep_text = gr.HTML(
        cards.budget(budget_text(opening.settings.keep, opening.total)), elem_id="keep-text"
    )
    with gr.Row(elem_id="ask-buttons"):
        ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=2, min_width=120)
        cancel = gr.Button("Cancel", elem_id="cancel", scale=1, min_width=90)
    gr.HTML(hint(f"Ask: {HELP['ask']} Cancel: {HELP['cancel']}"))
    reweight, sinks = _more_settings()
    return Controls(
        image, question, method, keep, reweight, sinks, ask, cancel, shortcuts, method_text,
        keep_text,
    )  # fmt: skip


def _example_buttons() -> list[gr.Button]:
    """Examples as buttons, which also the keyboard reaches."""
    gr.HTML(f'<p class="label">Examples</p>{hint(HELP["examples"])}')
    with gr.Row(elem_id="examples"):
        buttons = [
            gr.Button(
                question,
                icon=str(path),
                size="sm",
                min_width=140,
                elem_id=f"example-{number}",
                elem_classes="example",
            )
            for number, (path, question) in enumerate(examples(), start=1)
        ]
    for button in buttons:
        # Otherwise gradio deletes the picture with the uploads of its age.
        button.keep_in_cache.add(button.icon["path"])
    return buttons


def _more_settings() -> tuple[gr.Dropdown, gr.Radio]:
    """Reweighting and the sink policy."""
    with gr.Accordion("More: reweighting and ViT sinks", open=False, elem_id="more"):
        reweight = gr.Dropdown(
            [NO_REWEIGHTING, *reweightings()],
            value=NO_REWEIGHTING,
            label="Reweighting",
            info=HELP["reweight"],
            elem_id="reweight",
        )
        sinks = gr.Radio(
            [(SINKS[policy], policy) for policy in SINK_POLICIES],
            value=SINK_POLICIES[0],
            label="ViT sink policy",
            info=HELP["sinks"],
            elem_id="sinks",
        )
    return reweight, sinks


def hint(words: str) -> str:
    """A line that explains something."""
    return f'<p class="hint">{words}</p>'


def see_part(view: AskView) -> Seen:
    """Answers and pictures.

    Args:
        view: what is shown at first.
    """
    gr.HTML("<h2>2. See</h2>")
    message = gr.HTML(view.message, elem_id="message")
    answers = gr.HTML(view.answers, elem_id="answers")
    kept = gr.HTML(view.kept, elem_id="kept")
    note = gr.HTML(view.note, elem_id="note")
    gr.HTML(hint(HELP["kept"]))
    with gr.Accordion("Scores, and what was merged", open=True, elem_id="scores-part"):
        gr.HTML(hint(HELP["scores"]))
        scores = gr.HTML(view.scores, elem_id="scores")
    with gr.Accordion("All numbers, as JSON", open=False, elem_id="numbers-part"):
        numbers = gr.JSON(view.numbers, label="Numbers", elem_id="numbers")
    return Seen(message, answers, kept, scores, note, numbers)


def compare_part() -> ComparePart:
    """Buttons and grid of the comparisons."""
    gr.HTML(f"<h2>3. Compare</h2>{hint(HELP['compare'])}")
    with gr.Row(elem_id="compare-buttons"):
        methods = gr.Button(
            "All methods at this budget", variant="primary", elem_id="compare-methods"
        )
        budgets = gr.Button(
            "This method over budgets", variant="primary", elem_id="compare-budgets"
        )
        cancel = gr.Button("Cancel comparison", elem_id="cancel-compare", min_width=90)
    gr.HTML(hint(f"{HELP['compare_methods']} {HELP['compare_budgets']} {HELP['signs']}"))
    progress = gr.HTML("", elem_id="progress")
    grid = gr.HTML("", elem_id="grid")
    with gr.Accordion("All numbers, as JSON", open=False, elem_id="compared-part"):
        numbers = gr.JSON(None, label="Numbers", elem_id="compared")
    return ComparePart(methods, budgets, cancel, progress, grid, numbers)


def words_part() -> None:
    """What the page's words mean."""
    lines = "".join(f"<dt>{word}</dt><dd>{meaning}</dd>" for word, meaning in GLOSSARY.items())
    with gr.Accordion("What the words mean", open=False, elem_id="words-part"):
        gr.HTML(f'<dl class="words">{lines}</dl>', elem_id="words")
