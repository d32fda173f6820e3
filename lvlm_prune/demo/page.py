"""The page: controls beside what came of them, comparisons below.

In: the handlers and the first example, already answered. Out: gradio `Blocks`. Its parts are laid
out in `page_parts` and connected in `page_events`.
"""

from dataclasses import dataclass, replace
from html import escape

import gradio as gr

from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.config import EVERYTHING
from lvlm_prune.demo import cards
from lvlm_prune.demo.closed_blocks import ClosedBlocks
from lvlm_prune.demo.examples import examples
from lvlm_prune.demo.handlers import AskView, Handlers
from lvlm_prune.demo.page_events import connect
from lvlm_prune.demo.page_parts import Opening, ask_part, compare_part, see_part, words_part
from lvlm_prune.demo.settings import Asking, Settings, first_method
from lvlm_prune.demo.uploads import read_upload
from lvlm_prune.demo.words import LEAD, OPENED, TITLE

KEPT_SECONDS = 3600  # uploads and pictures are deleted after this time
OPENING_KEEP = 0.06  # few enough that not every method keeps the answer


@dataclass(frozen=True)
class First:
    """The example that the page opens with.

    Args:
        opening: what the controls say.
        view: what came of it.
    """

    opening: Opening
    view: AskView


def first_example(handlers: Handlers) -> First:
    """Answer the first example, so that the page opens with a result."""
    path, question = examples()[0]
    asking = Asking(*read_upload(str(path)), question)
    total = handlers.engine.visual_tokens(asking)
    settings = Settings(first_method(handlers.refused), tokens_to_keep(OPENING_KEEP, total))
    # A model that has just been loaded is slow at first; every visitor sees the times of this one.
    more = (settings.reweight, settings.sinks)
    list(handlers.ask(str(path), question, EVERYTHING, total, *more))
    *_, view = handlers.ask(str(path), question, settings.method, settings.keep, *more)
    if view.answers is not None:
        view = replace(view, message=cards.message(OPENED))
    return First(Opening(str(path), question, settings, total), view)


def build_page(handlers: Handlers, first: First) -> gr.Blocks:
    """Lay the page out and connect it.

    Args:
        handlers: the functions of the buttons.
        first: what is shown before anything was asked.
    """
    with ClosedBlocks(
        title=f"{TITLE}: demo",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS),
    ) as page:
        total = gr.State(first.opening.total)
        gr.HTML(_header(handlers.engine.loaded.label), elem_id="header")
        with gr.Row(equal_height=False, elem_id="workbench"):
            with gr.Column(scale=5, min_width=320, elem_id="ask-part"):
                controls = ask_part(first.opening, handlers.refused)
            with gr.Column(scale=7, min_width=320, elem_id="see-part"):
                seen = see_part(first.view)
        with gr.Column(elem_id="compare-part"):
            compared = compare_part()
        words_part()
        connect(page, handlers, controls, seen, compared, total)
    return page


def _header(model: str) -> str:
    """What this is, in a few lines."""
    return (
        f'<header><h1>{TITLE}</h1><p class="lead">{LEAD}</p>'
        f'<p class="fine">Model: <b>{escape(model)}</b>. Everything runs on the machine that '
        "serves this page.</p></header>"
    )
