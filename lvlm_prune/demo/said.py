"""One answer as HTML: its words, and how probable yes and no are.

In: an `Answered`. Out: strings in which everything that came from outside is escaped.
"""

from html import escape

from lvlm_prune.demo.results import Answered
from lvlm_prune.demo.words import percent

LONGEST = 300  # characters of an answer that are shown


def said(answered: Answered) -> str:
    """An answer, escaped and of bounded length."""
    text = answered.text if len(answered.text) <= LONGEST else f"{answered.text[:LONGEST]}…"
    return escape(text) or "(nothing)"


def yes_no_bar(answered: Answered, shown: bool) -> str:
    """How probable yes and no are, as a bar with words; empty where that means nothing.

    Args:
        answered: the answer.
        shown: whether the full model takes the question for one of yes or no.
    """
    if not shown or answered.yes_no is None:
        return ""
    yes, no = answered.yes_no
    words = f"yes {percent(yes)}, no {percent(no)}"
    return (
        f'<div class="bar" role="img" aria-label="Probability: {words}">'
        f'<span class="yes" style="width:{100 * yes:.1f}%"></span>'
        f'<span class="no" style="width:{100 * no:.1f}%"></span></div>'
        f'<p class="odds"><span>yes {percent(yes)}</span><span>no {percent(no)}</span></p>'
    )
