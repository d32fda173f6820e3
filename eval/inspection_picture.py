"""Draw an inspection: what a model does with the visual tokens of one image, on one page.

In: an `Inspection`, the views of the image and its words. Out: a PNG file. First row: the encoder
(the image, norms with ViT sinks, attention) and what is kept. Second row: LLM sinks by layer, and
the largest norms. Third row: every head's attention from the last prompt row to visual tokens.
Needs matplotlib, the `plot` extra, by its object interface alone. Colour maps grow in brightness
and kinds of sinks are Okabe and Ito's blue and vermilion, which colour-blind people can tell apart.
"""

from pathlib import Path
from typing import Any

from lvlm_prune.encoder_reading import CLS
from lvlm_prune.eval.head_maps import draw_heads
from lvlm_prune.eval.inspection_panels import Views, say, show, token_map
from lvlm_prune.eval.sink_maps import draw_sinks
from lvlm_prune.inspection import Inspection
from lvlm_prune.overlay import draw_kept_views, draw_views

INCHES, DPI = (16.0, 11.6), 100
HEADING, TITLE, LABEL = 15, 13, 11


def draw_inspection(
    inspection: Inspection, rows: Views, heading: str, numbers: str, path: Path
) -> None:
    """Write the picture.

    Args:
        inspection: what was measured.
        rows: the views of the image; none where the tokens form no grid that could be drawn.
        heading: model, image and question.
        numbers: a line below it.
        path: PNG file to write.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    settings: Any = {"font.size": LABEL, "axes.titlesize": TITLE, "axes.titlelocation": "left"}
    with matplotlib.rc_context(settings):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.11, wspace=0.02)
        figure: Any = Figure(figsize=INCHES, dpi=DPI, layout=layout, facecolor="white")
        FigureCanvasAgg(figure)
        head, encoder, sinks, heads = figure.subfigures(4, 1, height_ratios=[0.62, 4.3, 3.4, 3.4])
        # A question may hold dollar signs, which are no formula.
        plain = {"va": "top", "parse_math": False}
        head.text(0.006, 0.92, _cut(heading, 105), fontsize=HEADING, weight="bold", **plain)
        whose = f"{numbers}; sinks and heads are those of the unpruned model"
        head.text(0.006, 0.34, whose, fontsize=LABEL, color="#444444", **plain)
        _draw_encoder(encoder, inspection, rows)
        draw_sinks(sinks, inspection, rows)
        draw_heads(heads, inspection, rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never leave half a picture behind.
        part = path.with_name(path.name + ".part")
        figure.savefig(part, format="png")
        part.replace(path)


def _cut(text: str, length: int) -> str:
    """A text that fits into a line."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _draw_encoder(figure: Any, inspection: Inspection, rows: Views) -> None:
    """The image, norms, attention, and what is kept."""
    image, norms, attention, kept = figure.subplots(1, 4)
    encoder = inspection.encoder
    grids = " + ".join(f"{h} x {w}" for _, (h, w) in inspection.tiles)
    shape = grids if len(inspection.tiles) < 3 else f"{len(inspection.tiles)} tiles"
    count = int(encoder.sinks.sum())
    show(image, draw_views(rows) if rows else None, "Image, as the encoder sees it")
    image.set_xlabel(f"{inspection.total} visual tokens ({shape})")
    marked = f"{count} ViT sinks (crosses)" if count else "no ViT sinks"
    token_map(norms, encoder.norms, encoder.sinks, rows, f"Encoder rows: {marked}", "L2 norm")
    if encoder.attention is None:
        say(attention, "Attention", "nothing is known of\nthis encoder's layers")
    else:
        title = f"Encoder: {encoder.kind}, layer {encoder.layer}"
        means = "heads" if encoder.kind == CLS else "heads and rows"
        label = f"attention weight, mean over {means}"
        token_map(attention, encoder.attention, encoder.sinks, rows, title, label)
    total, chosen = inspection.total, inspection.kept
    drawn = draw_kept_views(rows, chosen, encoder.sinks, total) if rows else None
    show(kept, drawn, f"{len(chosen)} of {total} enter the LLM")
    kept.set_xlabel(f"kept by {inspection.config.method}: colour and amber outline")
