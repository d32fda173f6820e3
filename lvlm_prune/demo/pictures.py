"""The page's pictures: kept and dropped tokens, scores, and the small ones of a comparison.

In: results and the image as the encoder saw it. Out: Pillow images, drawn by the overlay functions
that the command line and the reports use, too.
"""

import base64
import io
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from lvlm_prune.demo.results import Answered
from lvlm_prune.overlay import draw_kept_views, draw_score_views, draw_views
from lvlm_prune.views import View

SIDE = 560  # pixels of the large pictures
SMALL = 224  # of those in a comparison
Rows = Sequence[Sequence[View]]


def kept_pair(
    rows: Rows, pruned: Answered, sinks: Tensor | None
) -> tuple[Image.Image, Image.Image] | None:
    """The whole image, and the same with dropped tokens dimmed and ViT sinks crossed.

    Args:
        rows: the image as the encoder saw it; none where its tokens form no known grid.
        pruned: what was kept.
        sinks: ViT sinks `[N]` bool, or None.
    """
    if not rows:
        return None
    return draw_views(rows, SIDE), _kept(rows, pruned, sinks, SIDE)


def score_map(rows: Rows, pruned: Answered) -> Image.Image | None:
    """The method's scores, or None where it ranks no tokens or no grid is known."""
    if not rows or pruned.choice.scores is None:
        return None
    return draw_score_views(rows, pruned.choice.scores, pruned.choice.kept, SIDE)


def small_picture(rows: Rows, answered: Answered, sinks: Tensor | None) -> str:
    """A picture of a comparison as a `data:` address, so that it needs no file; empty without."""
    if not rows:
        return ""
    return data_address(_kept(rows, answered, sinks, SMALL))


def data_address(image: Image.Image) -> str:
    """An image inside its own address."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _kept(rows: Rows, answered: Answered, sinks: Tensor | None, side: int) -> Image.Image:
    """Kept tokens in colour, ViT sinks crossed."""
    choice = answered.choice
    return draw_kept_views(rows, choice.kept, sinks, choice.total, side)
