"""Pictures as HTML: the slider between whole and kept, scores, merged groups, a comparison's grid.

In: addresses of pictures and what they show. Out: strings of HTML; every picture says in words what
is on it. The slider is the browser's own, so it works with mouse, finger and keyboard.
"""

from collections.abc import Sequence
from html import escape

from torch import Tensor

from lvlm_prune.demo.compare import Compared
from lvlm_prune.demo.results import Answered
from lvlm_prune.demo.said import said, yes_no_bar
from lvlm_prune.methods import METHODS

CUT = 12  # percent of the width that shows the whole image at first
NO_GRID = "This model's visual tokens form no grid that could be drawn."


def split(pair: tuple[str, str] | None, pruned: Answered) -> str:
    """The whole image and the kept tokens, with a slider that moves the border.

    Args:
        pair: addresses of both pictures, or None without a grid.
        pruned: what was kept.
    """
    if pair is None:
        return f'<p class="fine">{NO_GRID}</p>'
    kept = f"{pruned.tokens} of {pruned.choice.total} visual tokens"
    return (
        f'<figure class="split" style="--cut:{CUT}%"><div class="frame">'
        f'<img src="{pair[1]}" alt="What enters the language model: {kept} in colour, others grey">'
        f'<img class="whole" src="{pair[0]}" alt="The whole image">'
        '<i class="handle" aria-hidden="true"></i>'
        f'<input type="range" min="0" max="100" value="{CUT}" '
        'aria-label="Border between the whole image and the kept tokens" '
        f'aria-valuetext="{CUT} % whole image" '
        "oninput=\"this.closest('.split').style.setProperty('--cut', this.value + '%'); "
        "this.setAttribute('aria-valuetext', this.value + ' % whole image')\"></div>"
        "<figcaption><span>Whole image, as the encoder sees it</span>"
        f"<span>{kept}</span></figcaption></figure>"
    )


def scores(picture: str | None, method: str, pruned: Answered) -> str:
    """The score map, or why there is none.

    Args:
        picture: its address.
        method: name of the method.
        pruned: what was kept.
    """
    name = escape(method)
    if picture is None and pruned.tokens == pruned.choice.total:
        return '<p class="fine">All tokens are kept, so nothing was ranked.</p>'
    if picture is None:
        return f'<p class="fine">{name} ranks no tokens, so there is no score map.</p>'
    return (
        f'<figure class="scores"><img src="{picture}" alt="Scores of {name} over the image">'
        '<figcaption><span class="ramp"><span>low</span><i aria-hidden="true"></i>'
        f"<span>high</span></span>{name}: {escape(METHODS[method].summary)}.</figcaption></figure>"
    )


def merged(picture: str | None, pruned: Answered) -> str:
    """What was merged into which kept token; nothing where the method merges none.

    Args:
        picture: its address, or None.
        pruned: what was kept.
    """
    if picture is None:
        return ""
    into, count = len(pruned.merged.unique()), len(pruned.merged)
    dropped = pruned.choice.total - pruned.tokens - count
    words = f"{count} tokens were merged into {into} of those kept"
    words += f", {dropped} were dropped." if dropped else "; none were dropped."
    return (
        f'<figure class="scores merged"><img src="{picture}" alt="{words}">'
        f"<figcaption>{words} A number says how many tokens that one stands for.</figcaption>"
        "</figure>"
    )


def legend(sinks: Tensor | None, pruned: Answered) -> str:
    """What colours and crosses mean, and how many ViT sinks there are.

    Args:
        sinks: ViT sinks `[N]` bool, or None.
        pruned: what was kept.
    """
    # A method may add what it does not keep to several kept tokens at once, in no groups.
    gone = "merged into a kept one" if len(pruned.merged) else "not kept"
    if 0 < len(pruned.merged) < pruned.choice.total - pruned.tokens:
        gone = f"dropped, or {gone}"
    count = 0 if sinks is None else int(sinks.sum())
    words = f"ViT sink ({count} in this image)" if count else "ViT sink (none in this image)"
    return (
        '<ul class="legend"><li><i class="swatch kept"></i>kept: in colour, amber border</li>'
        f'<li><i class="swatch dropped"></i>{gone}: grey and dark</li>'
        f'<li><i class="swatch sink">✕</i>{words}</li></ul>'
    )


def grid(title: str, rows: Sequence[Compared], pictures: Sequence[str]) -> str:
    """A comparison as small pictures with their answers.

    Args:
        title: what is compared.
        rows: what was compared, the full model first.
        pictures: an address for each row, or an empty string.
    """
    if not rows:
        return ""
    full = rows[0].answered
    tiles = [_tile(row, picture, full) for row, picture in zip(rows, pictures, strict=True)]
    return f'<h3>{escape(title)}</h3><div class="grid">{"".join(tiles)}</div>'


def _tile(row: Compared, picture: str, full: Answered | None) -> str:
    """One small picture."""
    label = escape(row.label)
    tag = '<i class="tag">control</i>' if row.control else ""
    if row.answered is None:
        return (
            f'<figure class="tile refused"><div class="blank">no answer</div>'
            f"<figcaption><b>{label}</b>{tag}<small>{escape(row.refusal)}</small></figcaption></figure>"
        )
    found = row.answered
    shown = (
        f'<img src="{picture}" alt="Kept visual tokens, {label}: {found.tokens} of '
        f'{found.choice.total}">'
        if picture
        else '<div class="blank">no grid is known</div>'
    )
    kind = "full" if found is full else "same"
    words = said(found)
    if full is not None and found is not full:
        same = found.text == full.text
        kind = "same" if same else "differs"
        words = f"{'=' if same else '≠'} {words}"
    return (
        f'<figure class="tile {kind}">{shown}<figcaption><b>{label}</b>{tag}'
        f'<span class="said">{words}</span>'
        f"{yes_no_bar(found, full is not None and full.is_yes_no)}"
        f"<small>{found.tokens} visual tokens</small></figcaption></figure>"
    )
