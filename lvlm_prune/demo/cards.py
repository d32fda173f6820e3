"""What was found, as HTML: both answers side by side, a comparison's grid, messages.

In: results. Out: strings of HTML in which everything that came from outside is escaped. Colours and
layout are in `page.css`; nothing is said by colour alone.
"""

from collections.abc import Sequence
from html import escape

from lvlm_prune.demo.compare import Compared, Progress
from lvlm_prune.demo.results import Answered, Asked, Prefilled
from lvlm_prune.demo.settings import Asking, Settings
from lvlm_prune.demo.words import change, part, percent
from lvlm_prune.report import MIB

LONGEST = 300  # characters of an answer that are shown


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
        f'<p class="answer">{_answer(answered)}</p>{badge}'
        f"{yes_no_bar(answered, asked.full.is_yes_no)}<dl>{lines}</dl></section>"
    )


def _delta(total: int | None, answered: Answered) -> str | None:
    """How many tokens were dropped, as a change."""
    return None if total is None else change(total, answered.tokens)


def _answer(answered: Answered) -> str:
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


def grid(rows: Sequence[Compared], pictures: Sequence[str]) -> str:
    """A comparison as small pictures with their answers.

    Args:
        rows: what was compared, the full model first.
        pictures: an address for each row, or an empty string.
    """
    if not rows:
        return ""
    full = rows[0].answered
    tiles = [_tile(row, picture, full) for row, picture in zip(rows, pictures, strict=True)]
    return f'<div class="grid">{"".join(tiles)}</div>'


def _tile(row: Compared, picture: str, full: Answered | None) -> str:
    """One small picture."""
    label = escape(row.label)
    if row.answered is None:
        return (
            f'<figure class="tile refused"><div class="blank">not on this model</div>'
            f"<figcaption><b>{label}</b><small>{escape(row.refusal)}</small></figcaption></figure>"
        )
    found = row.answered
    shown = (
        f'<img src="{picture}" alt="Kept visual tokens, {label}: {found.tokens} of '
        f'{found.choice.total}">'
        if picture
        else '<div class="blank">no grid is known</div>'
    )
    kind = "full" if found is full else "same"
    said = _answer(found)
    if full is not None and found is not full:
        same = found.text == full.text
        kind = "same" if same else "differs"
        said = f"{'=' if same else '≠'} {said}"
    return (
        f'<figure class="tile {kind}">{shown}<figcaption><b>{label}</b>'
        f'<span class="said">{said}</span>'
        f"{yes_no_bar(found, full is not None and full.is_yes_no)}"
        f"<small>{found.tokens} visual tokens</small></figcaption></figure>"
    )


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


def _changed(rows: Sequence[Compared]) -> int:
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


def note(settings: Settings, asked: Asked, drawn: bool) -> str:
    """What the pictures show beside kept tokens, and what they cannot show."""
    if not drawn:
        return '<p class="fine">This model\'s visual tokens form no grid that could be drawn.</p>'
    found = 0 if asked.full.sinks is None else int(asked.full.sinks.sum())
    sinks = (
        f"{found} ViT sink{'s' if found > 1 else ''} marked with a white cross."
        if found
        else "No ViT sinks in this image."
    )
    scores = (
        ""
        if asked.pruned.choice.scores is not None
        else f" {escape(settings.method)} ranks no tokens, so there is no score map."
    )
    return (
        '<ul class="legend"><li><i class="swatch kept"></i>kept: in colour, amber border</li>'
        '<li><i class="swatch dropped"></i>dropped: grey and dark</li>'
        '<li><i class="swatch sink">✕</i>ViT sink</li></ul>'
        f'<p class="fine">{sinks}{scores}</p>'
    )
