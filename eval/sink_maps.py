"""Draw which visual tokens are LLM sinks at which decoder layers, and the largest norms by layer.

In: an `Inspection` and the views of the image. Out: three panels: sinks on the image, sinks by
layer, largest norms. Sinks that were ViT sinks (propagated, arXiv 2510.08510) are blue, those that
emerged in the LLM are vermilion. Where there are none, the panels say so.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lvlm_prune.eval.inspection_panels import Views, say, show
from lvlm_prune.inspection import Inspection
from lvlm_prune.inspection_text import rule_text
from lvlm_prune.overlay import draw_color_views

PROPAGATED, EMERGED = "#0072B2", "#D55E00"
TEXT_COLOR = "#777777"
NAMED = 16  # sinks that are named on an axis


def draw_sinks(figure: Any, inspection: Inspection, rows: Views) -> None:
    """The three panels."""
    found = bool(inspection.decoder.sinks.any())
    panels = figure.subplots(1, 2 + found, width_ratios=[1, 1.45, 1.45] if found else [2.45, 1.45])
    if found:
        _draw_places(panels[0], inspection, rows)
        _draw_layers(panels[1], inspection)
    else:
        say(panels[0], "LLM sinks", f"no sinks among the visual tokens\n({rule_text(inspection)})")
    _draw_norms(panels[-1], inspection)


def _draw_places(axes: Any, inspection: Inspection, rows: Views) -> None:
    """Tokens that are sinks at any layer, on the image."""
    from matplotlib.colors import to_rgb

    ever, vit = inspection.decoder.sinks.any(dim=0), inspection.encoder.sinks
    colors = np.zeros((inspection.total, 4))
    colors[:, :3] = np.where(vit.numpy()[:, None], to_rgb(PROPAGATED), to_rgb(EMERGED))
    colors[:, 3] = ever.numpy()
    nothing = torch.zeros_like(vit)
    show(axes, draw_color_views(rows, colors, nothing) if rows else None, "LLM sinks on the image")
    axes.set_xlabel("blue: ViT sinks before\nvermilion: emerged in the LLM")


def _draw_layers(axes: Any, inspection: Inspection) -> None:
    """A row for each token that is a sink anywhere, a column for each layer."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    ever = inspection.decoder.sinks.any(dim=0).nonzero()[:, 0]
    kinds = inspection.propagated.long() + 2 * inspection.emerged.long()
    colors = ListedColormap(["#f2f2f2", PROPAGATED, EMERGED])
    axes.imshow(
        kinds[:, ever].T.numpy(), cmap=colors, vmin=0, vmax=2, aspect="auto", interpolation="none"
    )
    step = -(-len(ever) // NAMED)
    axes.set_yticks(
        range(0, len(ever), step), [token_name(inspection, int(t)) for t in ever[::step]]
    )
    axes.set_title("LLM sinks by layer")
    axes.set_xlabel(f"decoder layer ({rule_text(inspection)})")
    layer_ticks(axes, inspection.depth)
    counts = [int(mask.any(dim=0).sum()) for mask in (inspection.propagated, inspection.emerged)]
    axes.legend(
        handles=[
            Patch(color=PROPAGATED, label=f"propagated ({counts[0]})"),
            Patch(color=EMERGED, label=f"emerged ({counts[1]})"),
        ],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.2,
        ncols=2,
        frameon=False,
        fontsize=9,
        handlelength=1,
    )


def token_name(inspection: Inspection, token: int) -> str:
    """Row and column of a token where the image is one grid, or else its number."""
    if len(inspection.tiles) > 1 or inspection.tiles[0][1][0] == 1:
        return f"token {token}"
    places, (_, width) = inspection.tiles[0]
    found = (places == token).nonzero()
    if not len(found):
        return f"token {token}"
    place = int(found[0, 0])
    return f"row {place // width}, col {place % width}"


def _draw_norms(axes: Any, inspection: Inspection) -> None:
    """Largest norm over the median of each modality, and phi where that tells sinks."""
    decoder, layers = inspection.decoder, range(inspection.depth)
    axes.set_title("Largest norms" if decoder.phi is None else "Largest norms, phi")
    axes.plot(layers, decoder.norm_ratio, color=EMERGED, marker="o", label="visual")
    axes.plot(layers, decoder.text_norm_ratio, color=TEXT_COLOR, marker="s", ls="--", label="text")
    if decoder.phi is not None:
        axes.plot(layers, decoder.phi, color=PROPAGATED, marker="^", label="phi, visual")
        _level(axes, inspection.rule.tau, f"tau {inspection.rule.tau:.3g}", PROPAGATED)
    else:
        _level(axes, inspection.rule.ratio, f"sinks\nfrom {inspection.rule.ratio:g}", "#222222")
    values: NDArray = np.concatenate([decoder.norm_ratio, decoder.text_norm_ratio])
    if values[np.isfinite(values)].max(initial=1) > 30:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.margins(y=0.2)
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("norm / median" if decoder.phi is None else "norm / median, or phi")
    layer_ticks(axes, inspection.depth)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.2,
        ncols=3,
        frameon=False,
        fontsize=9,
    )


def _level(axes: Any, value: float | None, label: str, color: str) -> None:
    """A threshold as a line across, named beside the panel."""
    axes.axhline(value, color=color, linewidth=1, ls=":")
    axes.annotate(
        label,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=color,
    )


def layer_ticks(axes: Any, depth: int) -> None:
    """Name at most nine layers."""
    axes.set_xticks(range(0, depth, -(-depth // 9)))
