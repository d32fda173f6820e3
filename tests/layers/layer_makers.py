"""One prompt right before a decoder layer, drawn from a seed, and slow attention beside it."""

from dataclasses import replace

import torch
from torch import Tensor

from lvlm_prune.layers.contract import LayerMethod, LayerSelection, LayerSignals, Projected

HEADS, KV_HEADS, WIDTH, HIDDEN = 4, 2, 6, 10


def layout(images: tuple[int, ...], text: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Columns of the images and of the text around them; `text` has one part more than `images`."""
    start, visual, words = 0, [], []
    for number, length in enumerate(text):
        words += range(start, start + length)
        start += length
        if number < len(images):
            visual.append(torch.arange(start, start + images[number]))
            start += images[number]
    return visual, torch.tensor(words)


def projected(length: int, past: int, generator: torch.Generator, dtype) -> Projected:
    """Random query, key and value."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    keys = normal(KV_HEADS, past + length, WIDTH)
    values = normal(KV_HEADS, past + length, WIDTH)
    return Projected(normal(HEADS, length, WIDTH) * 2, keys, values, WIDTH**-0.5)


def prompt(
    images: tuple[int, ...] = (7, 5),
    text: tuple[int, ...] = (3, 2, 4),
    past: int = 0,
    layer: int = 3,
    depth: int = 8,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LayerSignals:
    """Every signal that a method can ask for."""
    generator = torch.Generator().manual_seed(seed)
    visual, words = layout(images, text)
    length = sum(images) + sum(text)
    angles = torch.arange(length)[:, None] * 0.3 ** torch.arange(WIDTH // 2)
    angles = torch.cat([angles, angles], dim=-1)
    return LayerSignals(
        layer=layer,
        depth=depth,
        hidden=torch.randn(length, HIDDEN, generator=generator).to(dtype),
        images=visual,
        totals=list(images),
        text=words,
        projected={
            name: projected(length, past, generator, dtype) for name in ("previous", "following")
        },
        entered=torch.randn(length, HIDDEN, generator=generator).to(dtype),
        rotary=(angles.cos().to(dtype), angles.sin().to(dtype)),
        observed={layer - 1: torch.rand(length, generator=generator)},
    )


def choose(
    method: LayerMethod, signals: LayerSignals, keep=(), **options: object
) -> LayerSelection:
    """Select with complete options."""
    return method.select(signals, list(keep), **method.complete(options))


def slow_weights(parts: Projected, row: int) -> Tensor:
    """Attention weights of one row over the keys that it sees, `[H, S]` float64, head by head."""
    heads, groups = parts.query.shape[0], parts.query.shape[0] // parts.key.shape[0]
    weights = torch.zeros(heads, parts.key.shape[1], dtype=torch.float64)
    seen = list(range(parts.past + row + 1))
    if parts.seen is not None:
        seen = [place for place, sees in enumerate(parts.seen[row].tolist()) if sees]
    for head in range(heads):
        keys = parts.key[head // groups, seen].double()
        logits = keys @ parts.query[head, row].double() * parts.scale
        weights[head, seen] = (logits - logits.max()).exp() / (logits - logits.max()).exp().sum()
    return weights


def text_behind(signals: LayerSignals, image: int) -> list[int]:
    """Text rows that can see all of an image."""
    return [row for row in signals.text.tolist() if row > max(signals.images[image].tolist())]


def slow_attention(signals: LayerSignals, parts: Projected, image: int, rows: list[int]) -> Tensor:
    """Attention of rows on one image, mean over heads and rows, `[n]` float64."""
    weights = [slow_weights(parts, row).mean(dim=0)[parts.past :] for row in rows]
    return (sum(weights) / len(weights))[signals.images[image]]


def best(scores: Tensor, columns: Tensor, count: int) -> list[int]:
    """Columns of the best scores, ties to the earlier one, in plain Python."""
    pairs = sorted(zip(scores.tolist(), columns.tolist(), strict=True), key=lambda p: (-p[0], p[1]))
    return sorted(column for _, column in pairs[:count])


def with_keys(signals: LayerSignals, **parts: Projected) -> LayerSignals:
    """The same prompt with other projections."""
    return replace(signals, projected={**signals.projected, **parts})


def attending(rows: Tensor, columns: Tensor, length: int) -> Projected:
    """Projections whose attention weights at some rows are given.

    Args:
        rows: `[H, R, length]`, each sums to 1 and is 0 behind its own column.
        columns: columns of the rows `[R]`.
        length: columns of the prompt.
    """
    heads, count, _ = rows.shape
    query = torch.zeros(heads, length, count)
    query[:, columns] = torch.eye(count)
    keys = rows.clamp(min=1e-37).log().transpose(1, 2)
    return Projected(query, keys, torch.zeros_like(keys), 1.0)


def golden_prompt(golden: dict, **fields: object) -> LayerSignals:
    """One image between two texts, as the goldens have it; what is not given is empty."""
    start, count, length = golden["image_start"], golden["image_len"], golden["seq_len"]
    visual = torch.arange(start, start + count)
    text = torch.tensor([c for c in range(length) if c < start or c >= start + count])
    given = {"hidden": torch.zeros(length, 1), **fields}
    return LayerSignals(layer=2, depth=32, images=[visual], totals=[count], text=text, **given)
