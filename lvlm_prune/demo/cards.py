"""What was found, as HTML: both answers side by side, and messages.

In: results. Out: strings of HTML in which everything that came from outside is escaped. Colours and
layout are in `page.css`; nothing is said by colour alone.
"""

from html import escape

from lvlm_prune.demo.compare import Compared, Progress
from lvlm_prune.demo.results import Asked, Measured
from lvlm_prune.demo.said import said, yes_no_bar
from lvlm_prune.demo.settings import NO_REWEIGHTING, Asking, Settings
from lvlm_prune.demo.words import change, part, percent
from lvlm_prune.report import MIB


def answers(asking: Asking, settings: Settings, asked: Asked) -> str:
    """Both answers side by side, below a sentence that says what came of it."""
    name = settings.method
    if settings.reweight != NO_REWEIGHTING:
        name += f" + {settings.reweight}"
    cards = [
        _card("full", "All visual tokens", asked),
        _card("pruned", f"Pruned by {name}", asked),
    ]
    return (
        f'<p class="question">“{escape(asking.question)}”</p>'
        f'<div class="cards">{"".join(cards)}</div>'
        f'<p class="verdict">{_verdict(asked, settings)}</p>'
        f'<p class="fine">{_measured(asked.measured, settings)}</p>'
    )


def _measured(measured: Measured, settings: Settings) -> str:
    """How the numbers were made, and how far they can be trusted."""
    rounds = f"medians of {measured.rounds} rounds" if measured.rounds > 1 else "one round"
    words = (
        f"Measured on this machine, not estimated: {rounds}, both models in turn. Prefill: the "
        "language model reads the prompt. First token: the whole wait, with the encoder and the "
        "choosing of tokens. KV cache: memory that the prompt occupies while the model answers."
    )
    if (reweight := settings.config().reweight) is not None and (beside := reweight.beside()):
        words += (
            f" {escape(settings.reweight)} also runs {escape(beside)}: that is in the wait for the "
            "first token, and not in prefill and KV cache."
        )
    if measured.steady:
        return words
    return (
        f"{words} <strong>The rounds differ by {percent(measured.spread)}: this machine is busy. "
        "Ask again to measure anew.</strong>"
    )


def _verdict(asked: Asked, settings: Settings) -> str:
    """What came of it, in a sentence."""
    kept, total, costs = asked.pruned.tokens, asked.full.tokens, asked.measured
    holds = (
        "<strong>the answer stays the same</strong>"
        if asked.same
        else '<strong class="differs">the answer changes</strong>'
    )
    memory = change(costs.full.kv_bytes, costs.pruned.kv_bytes)
    prefill = change(costs.full.prefill, costs.pruned.prefill)
    wait = change(costs.full.first_token, costs.pruned.first_token)
    measured = f"KV cache {memory}, prefill {prefill}, the whole wait for the first token {wait}."
    if kept < total:
        return f"With {kept} of {total} visual tokens ({part(kept, total)}) {holds}. {measured}"
    if settings.reweight == NO_REWEIGHTING:
        return f"All {total} visual tokens are kept, so nothing is saved; {holds}."
    return f"All {total} visual tokens are kept and attention is reweighted: {holds}. {measured}"


def _card(kind: str, title: str, asked: Asked) -> str:
    """One of the two answers with its numbers; `kind` is `full` or `pruned`."""
    answered = asked.full if kind == "full" else asked.pruned
    lines = "".join(
        f"<div><dt>{label}</dt><dd>{value}<small>{delta}</small></dd></div>"
        for label, value, delta in _lines(kind, asked)
    )
    return (
        f'<section class="card {kind}" aria-label="{escape(title)}"><h3>{escape(title)}</h3>'
        f'<p class="answer">{said(answered)}</p>{_badge(kind, asked.same)}'
        f"{yes_no_bar(answered, asked.full.is_yes_no)}<dl>{lines}</dl></section>"
    )


def _badge(kind: str, same: bool) -> str:
    """Whether an answer is the full model's."""
    if kind == "full":
        return '<span class="badge">the reference</span>'
    if same:
        return '<span class="badge same">= same as the full model</span>'
    return '<span class="badge differs">≠ differs from the full model</span>'


def _lines(kind: str, asked: Asked) -> list[tuple[str, str, str]]:
    """Names, values and changes of a card's numbers; the full model is what changes start from."""
    full, pruned = asked.measured.full, asked.measured.pruned
    pairs = [
        ("Visual tokens", asked.full.tokens, asked.pruned.tokens, "{:d}"),
        ("LLM prefill", full.prefill, pruned.prefill, "{:.1f} ms"),
        ("First token", full.first_token, pruned.first_token, "{:.1f} ms"),
        ("KV cache", full.kv_bytes / MIB, pruned.kv_bytes / MIB, "{:.2f} MiB"),
    ]
    if kind == "full":
        return [(label, form.format(before), "") for label, before, _, form in pairs]
    return [
        (label, form.format(after), change(before, after)) for label, before, after, form in pairs
    ]


def progress(step: Progress) -> str:
    """A bar that says how far a comparison is."""
    done = len(step.rows)
    if not step.doing:
        changed = _changed(step.rows)
        answered = sum(row.answered is not None for row in step.rows[1:])
        verb = "changes" if changed == 1 else "change"
        missing = f" {done - 1 - answered} could not run." if answered < done - 1 else ""
        return message(
            f"Done: {answered} ways to prune; {changed} of them {verb} the answer.{missing}"
            f"{_easy(step.rows)}"
        )
    return (
        f'<div class="message busy" role="status"><label>{done} of {step.total} done, now '
        f'{escape(step.doing)}<progress value="{done}" max="{step.total}"></progress></label></div>'
    )


def _changed(rows: tuple[Compared, ...]) -> int:
    """How many answers are not the full model's."""
    full = rows[0].answered
    found = [row.answered for row in rows[1:] if row.answered is not None]
    return sum(full is not None and one.text != full.text for one in found)


def _easy(rows: tuple[Compared, ...]) -> str:
    """What follows where even the controls, which know nothing, keep the answer."""
    full = rows[0].answered
    controls = [row.answered for row in rows if row.control and row.answered is not None]
    if full is None or not controls or len(controls) == len(rows) - 1:
        return ""
    if any(one.text != full.text for one in controls):
        return ""
    return " Even the controls keep it: with fewer tokens, methods differ more."


def budget(words: str) -> str:
    """What the slider means."""
    return f'<p class="budget">{escape(words)}</p>'


def working(words: str) -> str:
    """What is being done."""
    return f'<div class="message busy" role="status">{escape(words)}</div>'


def message(words: str) -> str:
    """Something to know."""
    return f'<div class="message" role="status">{escape(words)}</div>'


def changed(words: str) -> str:
    """What is shown belongs to settings of before."""
    return f'<div class="message" role="status" data-changed>{escape(words)}</div>'


def mistake(words: str) -> str:
    """What is wrong and what to do, announced to screen readers at once."""
    return f'<div class="message mistake" role="alert"><b>Please note:</b> {escape(words)}</div>'
