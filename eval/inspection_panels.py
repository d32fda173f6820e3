"""The kinds of panels on the page of an inspection: a picture, words, numbers of tokens as colours.

In: matplotlib axes and what they are to show. Numbers stand on the token grid, tiles beside each
other as `views` lays them out; NaN is left grey.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lvlm_prune.overlay import draw_color_views
from lvlm_prune.views import View

Views = Sequence[Sequence[View]]


def token_map(
    axes: Any, values: Tensor, marked: Tensor, rows: Views, title: str, label: str
) -> None:
    """Numbers of the tokens as colours, with their scale; the highest 2 % share one colour."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    known = values[values.isfinite()]
    low, high = float(known.min()), float(torch.quantile(known, 0.98))
    scale = ScalarMappable(Normalize(low, high if high > low else low + 1), "viridis")
    colors: NDArray = scale.to_rgba(values.numpy())
    colors[~np.isfinite(values.numpy())] = 0
    show(axes, draw_color_views(rows, colors, marked) if rows else None, title)
    bar = axes.figure.colorbar(
        scale,
        # A part of the panel, so that panels with and without a scale are of one size.
        cax=axes.inset_axes((0.04, -0.11, 0.92, 0.05)),
        orientation="horizontal",
        extend="max" if float(known.max()) > high else "neither",
        label=f"{label} (largest: {float(known.max()):.3g})",
    )
    bar.ax.locator_params(nbins=5)


def show(axes: Any, image: Any, title: str) -> None:
    """Put a picture into a panel, or say that there is none."""
    if image is None:
        say(axes, title, "the tokens form no\ngrid that is known")
        return
    axes.set_title(title)
    axes.imshow(image, interpolation="lanczos")
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def say(axes: Any, title: str, words: str) -> None:
    """A panel of words."""
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#cccccc")
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color="#444444")
