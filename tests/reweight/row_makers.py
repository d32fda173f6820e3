"""Attention rows from seeds: one prompt, and several prompts padded into one batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import pad

from lvlm_prune.reweight.contract import AttentionRows

MARKS = (
    "local",
    "summary",
    "size",
    "position",
    "saliency",
    "shift",
    "query",
    "evidence",
    "score",
    "scored",
)


def prompt_rows(
    seed: int,
    before: int = 3,
    visual: int = 9,
    text: int = 6,
    heads: int = 4,
    width: int = 5,
    decoding: bool = False,
    layer: int = 3,
) -> AttentionRows:
    """Rows of one prompt: `before` text keys, `visual` keys, `text` keys and as many rows.

    A decode step has the last of those rows alone. Two visual keys and the first text key are
    sinks and hold more attention than others, marks are filled as if earlier rows had been seen.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = before + visual + text
    logits = 1.5 * torch.randn(1, heads, text, keys, generator=generator)
    logits[..., before : before + visual] += torch.randn(1, heads, 1, 1, generator=generator) + 0.5
    image = torch.zeros(1, keys, dtype=torch.bool)
    image[:, before : before + visual] = True
    sinks = torch.zeros(1, keys, dtype=torch.bool)
    sinks[:, [0, before, before + visual - 1]] = True
    logits[..., sinks[0]] += 0.4
    own = torch.arange(text) + keys - text
    logits.masked_fill_(torch.arange(keys) > own[:, None], -torch.inf)
    rows = AttentionRows(
        logits=logits,
        value=torch.randn(1, heads, keys, width, generator=generator),
        visual=image,
        layer=layer,
        depth=8,
        decoding=False,
        edited=torch.ones(1, text, dtype=torch.bool),
        sinks=sinks,
        marks=marks_of(image, before + visual, generator),
    )
    return last_row(rows, decoding=True) if decoding else rows


def marks_of(image: torch.Tensor, end: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """All marks of all methods for one prompt, `[1, S]` each."""
    keys = image.shape[1]
    places = torch.arange(keys)
    kind = torch.randint(0, 3, (1, keys), generator=generator)
    behind = (places >= end) & (places < keys - 1)
    stretched = torch.rand(1, keys, generator=generator) * image
    return {
        "local": ((kind == 1) & image).float(),
        "summary": ((kind == 2) & image).float(),
        "size": torch.randint(0, 5, (1, keys), generator=generator) * image.float(),
        "position": places[None].float(),
        "saliency": stretched,
        "shift": stretched,
        "query": (places >= end)[None].float(),
        "evidence": stretched,
        "score": 5 * torch.rand(1, keys, generator=generator) * behind,
        "scored": behind[None].float(),
    }


def last_row(rows: AttentionRows, decoding: bool) -> AttentionRows:
    """The last row alone."""
    return replace(
        rows, logits=rows.logits[:, :, -1:], edited=rows.edited[:, -1:], decoding=decoding
    )


def padded(prompts: Sequence[AttentionRows], more: int = 2) -> AttentionRows:
    """Prompts as one batch, padded on the left; rows of padding see the first key alone."""
    keys = max(rows.logits.shape[3] for rows in prompts) + more
    count = max(rows.logits.shape[2] for rows in prompts)
    parts = [widened(rows, keys - rows.logits.shape[3], count) for rows in prompts]
    return replace(
        prompts[0],
        logits=torch.cat([part.logits for part in parts]),
        value=torch.cat([part.value for part in parts]),
        visual=torch.cat([part.visual for part in parts]),
        edited=torch.cat([part.edited for part in parts]),
        sinks=torch.cat([part.sinks for part in parts]),
        marks={name: torch.cat([part.marks[name] for part in parts]) for name in MARKS},
    )


def widened(rows: AttentionRows, keys: int, count: int) -> AttentionRows:
    """One prompt with `keys` columns of padding in front and `count` rows."""
    missing = count - rows.logits.shape[2]
    logits = pad(rows.logits, (keys, 0, missing, 0), value=-torch.inf)
    logits[:, :, :missing, 0] = 0.3
    return replace(
        rows,
        logits=logits,
        value=pad(rows.value, (0, 0, keys, 0)),
        visual=pad(rows.visual, (keys, 0)),
        edited=pad(rows.edited, (missing, 0)),
        sinks=pad(rows.sinks, (keys, 0)),
        marks={name: pad(mark, (keys, 0)) for name, mark in rows.marks.items()},
    )
