"""The page's pictures: kept and dropped tokens, scores, merged groups, and a comparison's.

In: results and the image as the encoder saw it. Out: pictures inside `data:` addresses, so that
nothing is written to disk, drawn by the overlay functions that the command line and the reports
use, too.
"""

import base64
import io
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from lvlm_prune.demo.results import Answered
from lvlm_prune.overlay import draw_kept_views, draw_score_views, draw_views
from lvlm_prune.overlay_groups import draw_group_views
from lvlm_prune.views import View

SIDE = 560  # pixels of the large pictures
SMALL = 224  # of those in a comparison
Rows = Sequence[Sequence[View]]


def kept_pair(rows: Rows, pruned: Answered, sinks: Tensor | None) -> tuple[str, str] | None:
    """Addresses of the whole image, and of the same with dropped tokens dimmed and sinks crossed.

    Args:
        rows: the image as the encoder saw it; none where its tokens form no known grid.
        pruned: what was kept.
        sinks: ViT sinks `[N]` bool, or None.
    """
    if not rows:
        return None
    return data_address(draw_views(rows, SIDE)), data_address(_kept(rows, pruned, sinks, SIDE))


def score_map(rows: Rows, pruned: Answered) -> str | None:
    """Address of the method's scores, or None where it ranks no tokens or no grid is known."""
    if not rows or pruned.choice.scores is None:
        return None
    drawn = draw_score_views(rows, pruned.choice.scores, pruned.choice.kept, SIDE)
    return data_address(drawn)


def merged_groups(rows: Rows, pruned: Answered) -> str | None:
    """Address of what was merged into which kept token, or None where nothing was."""
    if not rows or pruned.choice.groups is None or len(pruned.merged) == 0:
        return None
    return data_address(draw_group_views(rows, pruned.choice.groups, pruned.choice.kept, SIDE))


def small_picture(rows: Rows, answered: Answered, sinks: Tensor | None) -> str:
    """Address of a picture of a comparison; empty where no grid is known."""
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
