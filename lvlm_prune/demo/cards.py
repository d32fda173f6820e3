"""What was found, as HTML: both answers side by side, and messages.

In: results. Out: strings of HTML in which everything that came from outside is escaped. Colours and
layout are in `page.css`; nothing is said by colour alone.
"""

from html import escape

from lvlm_prune.demo.compare import Compared, Progress
from lvlm_prune.demo.results import Answered, Asked, Prefilled
from lvlm_prune.demo.said import said, yes_no_bar
from lvlm_prune.demo.settings import Asking, Settings
from lvlm_prune.demo.words import change, part
from lvlm_prune.report import MIB


def answers(asking: Asking, settings: Settings, asked: Asked) -> str:
    """Both answers side by side, below a sentence that says what came of it."""
    full, pruned, measured = asked.full, asked.pruned, asked.measured
    share = part(pruned.tokens, pruned.choice.total)
    name = settings.method
    if settings.reweight != "none":
        name += f" + {settings.reweight}"
    cards = [
        _card("full", "All visual tokens", full, measured.full, None, asked),
        _card("pruned", f"Pruned by {name}", pruned, measured.pruned, measured.full, asked),
    ]
    return (
        f'<p class="question">“{escape(asking.question)}”</p>'
        f'<div class="cards">{"".join(cards)}</div>'
        f'<p class="verdict">{_verdict(asked, share)}</p>'
        f'<p class="fine">Measured just now on this machine, both models in turn (medians of '
        f"{measured.rounds} rounds). Prefill: the language model up to its first new token. KV "
        "cache: its tensors behind the prompt.</p>"
    )


def _verdict(asked: Asked, share: str) -> str:
    """What came of it, in a sentence."""
    full, pruned = asked.full, asked.pruned
    costs = asked.measured
    holds = (
        "<strong>the answer stays the same</strong>"
        if asked.same
        else '<strong class="differs">the answer changes</strong>'
    )
    memory = change(costs.full.kv_bytes, costs.pruned.kv_bytes)
    time = change(costs.full.prefill, costs.pruned.prefill)
    return (
        f"With {pruned.tokens} of {full.tokens} visual tokens ({share}) {holds}. "
        f"KV cache {memory}, prefill {time}."
    )


def _card(
    kind: str,
    title: str,
    answered: Answered,
    cost: Prefilled,
    base: Prefilled | None,
    asked: Asked,
) -> str:
    """One of the two answers with its numbers."""
    differs = kind == "pruned" and not asked.same
    badge = '<span class="badge">the reference</span>'
    if kind == "pruned":
        words = "differs from the full model" if differs else "same as the full model"
        sign = "≠" if differs else "="
        badge = f'<span class="badge {"differs" if differs else "same"}">{sign} {words}</span>'
    rows = [
        ("Visual tokens", f"{answered.tokens}", _delta(base and answered.choice.total, answered)),
        ("LLM prefill", f"{cost.prefill:.1f} ms", base and change(base.prefill, cost.prefill)),
        (
            "First token",
            f"{cost.first_token:.1f} ms",
            base and change(base.first_token, cost.first_token),
        ),
        (
            "KV cache",
            f"{cost.kv_bytes / MIB:.2f} MiB",
            base and change(base.kv_bytes, cost.kv_bytes),
        ),
    ]
    lines = "".join(
        f"<div><dt>{label}</dt><dd>{value}<small>{delta or ''}</small></dd></div>"
        for label, value, delta in rows
    )
    return (
        f'<section class="card {kind}" aria-label="{escape(title)}"><h3>{escape(title)}</h3>'
        f'<p class="answer">{said(answered)}</p>{badge}'
        f"{yes_no_bar(answered, asked.full.is_yes_no)}<dl>{lines}</dl></section>"
    )


def _delta(total: int | None, answered: Answered) -> str | None:
    """How many tokens were dropped, as a change."""
    return None if total is None else change(total, answered.tokens)


def progress(step: Progress) -> str:
    """A bar that says how far a comparison is."""
    done = len(step.rows)
    if not step.doing:
        changed = _changed(step.rows)
        return message(f"Done: {done - 1} ways to prune; {changed} of them change the answer.")
    return (
        f'<div class="message busy" role="status"><label>{done} of {step.total} done, now '
        f'{escape(step.doing)}<progress value="{done}" max="{step.total}"></progress></label></div>'
    )


def _changed(rows: tuple[Compared, ...]) -> int:
    """How many answers are not the full model's."""
    full = rows[0].answered
    found = [row.answered for row in rows[1:] if row.answered is not None]
    return sum(full is not None and one.text != full.text for one in found)


def budget(words: str) -> str:
    """What the slider means."""
    return f'<p class="budget">{escape(words)}</p>'


def working(words: str) -> str:
    """What is being done."""
    return f'<div class="message busy" role="status">{escape(words)}</div>'


def message(words: str) -> str:
    """Something to know."""
    return f'<div class="message" role="status">{escape(words)}</div>'


def mistake(words: str) -> str:
    """What is wrong and what to do, announced to screen readers at once."""
    return f'<div class="message mistake" role="alert"><b>Please note:</b> {escape(words)}</div>'
