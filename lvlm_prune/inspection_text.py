"""What `lvlm-prune inspect` prints of an inspection, and what it writes as JSON.

In: an `Inspection`. Out: a few lines about the image and a table with a line for each decoder
layer; or plain values. Knows nothing about models.
"""

from typing import Any

from torch import Tensor

from lvlm_prune.inspection import Inspection

HEADS = (
    "layer",
    "tokens",
    "sinks",
    "propagated",
    "emerged",
    "text sinks",
    "largest norm",
    "visual mass",
    "highest head",
    "on sinks",
)


def rule_text(inspection: Inspection) -> str:
    """How LLM sinks were told, in words."""
    rule = inspection.rule
    last = inspection.depth - 1 if rule.last_layer is None else rule.last_layer
    layers = f"layers {rule.first_layer} to {last}"
    if rule.dims and rule.tau is not None:
        dims = ", ".join(map(str, rule.dims))
        return f"phi over dimensions {dims} > {rule.tau:.3g}, {layers}"
    return f"norm at least {rule.ratio:g} x the median, {layers}"


def numbers_line(inspection: Inspection) -> str:
    """The most important numbers in one line."""
    vit = int(inspection.encoder.sinks.sum())
    propagated = int(inspection.propagated.any(dim=0).sum())
    emerged = int(inspection.emerged.any(dim=0).sum())
    llm = f"{propagated + emerged} LLM sinks ({propagated} propagated, {emerged} emerged)"
    parts = [
        f"{inspection.total} visual tokens",
        f"{len(inspection.kept)} kept by {inspection.config.method}",
        f"{vit or 'no'} ViT sinks",
        llm if propagated + emerged else "no LLM sinks among visual tokens",
    ]
    if inspection.config.layers is not None:
        end = int((inspection.reached == inspection.depth).sum())
        parts.insert(2, f"{end} at the end of the LLM ({inspection.config.layers.label()})")
    return "; ".join(parts)


def inspection_text(inspection: Inspection) -> str:
    """A few lines, and a table of the decoder layers."""
    encoder, decoder = inspection.encoder, inspection.decoder
    known = encoder.norms[encoder.norms.isfinite()]
    norms = f"largest {float(known.max()):.3g}, median {float(known.median()):.3g}"
    lines = [numbers_line(inspection), f"encoder rows    {norms}"]
    if encoder.attention is not None:
        lines.append(f"attention       {encoder.kind} of encoder layer {encoder.layer}")
    lines.append(f"LLM sinks       {rule_text(inspection)}")
    sinks = inspection.propagated.sum(1), inspection.emerged.sum(1), decoder.text_sinks
    rows = [list(HEADS)]
    for layer, tokens in enumerate(inspection.counts()):
        propagated, emerged, text = (int(count[layer]) for count in sinks)
        mass, share = decoder.visual_mass[layer], decoder.sink_share[layer]
        numbers = [layer, tokens, propagated + emerged, propagated, emerged, text]
        rows.append(
            [
                *map(str, numbers),
                f"{float(decoder.norm_ratio[layer]):.2f}",
                *(_percent(value) for value in (mass.mean(), mass.max(), share.nanmean())),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines += ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines.append(
        "tokens: what the settings leave; all else is of the unpruned model. largest norm: of a "
        "visual token over their median; visual mass: attention of the last prompt row, mean over "
        "heads; on sinks: share of it"
    )
    return "\n".join(lines)


def _percent(value: Tensor) -> str:
    """A share, or a dash where there is none."""
    return f"{100 * float(value):.1f} %" if bool(value.isfinite()) else "-"


def inspection_dict(inspection: Inspection) -> dict[str, Any]:
    """Plain values for JSON; tokens are numbered as the prompt's placeholders, from 0."""
    encoder, decoder = inspection.encoder, inspection.decoder
    return {
        "config": inspection.config.to_dict(),
        "total": inspection.total,
        "tiles": [{"tokens": places.tolist(), "grid": grid} for places, grid in inspection.tiles],
        "norms": _plain(encoder.norms),
        "vit_sinks": encoder.sinks.nonzero()[:, 0].tolist(),
        "attention_kind": encoder.kind,
        "attention_layer": encoder.layer,
        "attention": None if encoder.attention is None else _plain(encoder.attention),
        "llm_sink_rule": rule_text(inspection),
        "propagated": [row.nonzero()[:, 0].tolist() for row in inspection.propagated],
        "emerged": [row.nonzero()[:, 0].tolist() for row in inspection.emerged],
        "text_sinks": decoder.text_sinks.tolist(),
        "norm_ratio": _plain(decoder.norm_ratio),
        "text_norm_ratio": _plain(decoder.text_norm_ratio),
        "phi": None if decoder.phi is None else _plain(decoder.phi),
        "visual_mass": _plain(decoder.visual_mass),
        "sink_share": _plain(decoder.sink_share),
        "kept": inspection.kept.tolist(),
        "reached": inspection.reached.tolist(),
        "tokens_per_layer": inspection.counts(),
    }


def _plain(values: Tensor) -> Any:
    """Nested lists with None for NaN, which JSON does not have."""
    if values.dim():
        return [_plain(value) for value in values]
    return float(values) if bool(values.isfinite()) else None
