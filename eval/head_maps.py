"""Draw what every head's last prompt row gives to visual tokens, and where tokens are left behind.

In: an `Inspection` and the views of the image. Out: heat maps with a column for each decoder layer
and a row for each head: the mass on visual tokens, and the share of it on sinks (LLM sinks of that
layer, or ViT sinks where there are none); and, where layers are named, how far each token gets.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvlm_prune.eval.inspection_panels import Views, say, show
from lvlm_prune.eval.sink_maps import layer_ticks
from lvlm_prune.inspection import Inspection
from lvlm_prune.overlay import draw_color_views

SHARE = "Share of that mass on sinks"
GROUPS = 4  # stages, or neighbouring stages, that have a colour of their own


def draw_heads(figure: Any, inspection: Inspection, rows: Views) -> None:
    """Two heat maps, and the stages inside the LLM if there are any."""
    decoder, vit = inspection.decoder, inspection.encoder.sinks
    staged, sinks = bool(inspection.stages), bool(decoder.sinks.any() | vit.any())
    widths = [1.45, 1.45 if sinks else 0.8, 1][: 2 + staged]
    panels = figure.subplots(1, 2 + staged, width_ratios=widths)
    title = "Attention of the last prompt row on visual tokens"
    _draw_map(panels[0], decoder.visual_mass, title, "mass (1 is all)")
    if bool(decoder.sinks.any()):
        _draw_map(panels[1], decoder.sink_share, f"{SHARE}: LLM sinks", "share of visual mass")
    elif sinks:
        _draw_map(panels[1], decoder.share(vit), f"{SHARE}: ViT sinks", "share of visual mass")
    else:
        say(panels[1], SHARE, "no sinks, neither of\nthe encoder nor of the LLM")
    if staged:
        _draw_stages(panels[2], inspection, rows)


def _draw_map(axes: Any, values: Tensor, title: str, label: str) -> None:
    """Numbers `[L, H]` as colours from 0 on; layers without attention stay white."""
    known = values[values.isfinite()]
    high = float(known.max()) if len(known) else 1.0
    drawn = axes.imshow(
        values.T.numpy(),
        cmap="viridis",
        vmin=0,
        vmax=high if high > 0 else 1,
        aspect="auto",
        interpolation="none",
    )
    axes.set_title(title)
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("head")
    layer_ticks(axes, values.shape[0])
    heads = values.shape[1]
    axes.set_yticks(range(0, heads, -(-heads // 9)))
    axes.figure.colorbar(drawn, ax=axes, label=label, fraction=0.05, pad=0.02)


def _draw_stages(axes: Any, inspection: Inspection, rows: Views) -> None:
    """Every token in the colour of how far it gets."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    ends = [*_groups(inspection.stages), (inspection.depth,)]
    colors = np.zeros((inspection.total, 4))
    handles = [Patch(color="#999999", label=f"{_count(inspection, (0,))} dropped before the LLM")]
    for place, layers in enumerate(ends):
        color = colormaps["viridis"](0.25 + 0.7 * place / (len(ends) - 1))
        here = torch.isin(inspection.reached, torch.tensor(layers)).numpy()
        colors[here] = (*color[:3], 0.85)
        span = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        where = "reach the end" if layers == ends[-1] else f"left behind before {span}"
        handles.append(Patch(color=color, label=f"{_count(inspection, layers)} {where}"))
    nothing = torch.zeros(inspection.total, dtype=torch.bool)
    method = "" if inspection.config.layers is None else inspection.config.layers.label()
    drawn = draw_color_views(rows, colors, nothing) if rows else None
    show(axes, drawn, f"Inside the LLM: {method}")
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
        handlelength=1,
    )


def _groups(stages: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Neighbouring stages together, as more colours could not be told apart."""
    size = -(-len(stages) // GROUPS)
    return [stages[start : start + size] for start in range(0, len(stages), size)]


def _count(inspection: Inspection, layers: tuple[int, ...]) -> int:
    """Tokens that are left behind before one of these layers."""
    return int(torch.isin(inspection.reached, torch.tensor(layers)).sum())
