"""Show a layer method each prompt of a batch without its padding.

In: the batch's tensors right before a decoder layer. Out: `LayerSignals` for each prompt, and the
way back from a prompt's columns to the batch's. Knows nothing about hooks or caches.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.layers.contract import LayerSignals, Projected


@dataclass(frozen=True)
class BatchProjection:
    """Query, key and value of a layer's attention for a batch.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, Hk, S, d]`, S >= T.
        value: `[B, Hk, S, d]`.
        scale: factor of the logits.
        keys: columns of the keys, `[B, S]`, -1 for padding.
        real: `[B, C]` bool, columns of layer 0 that are no padding.
        mask: of the layer, `[B, 1, T, S]`, bool or added to the logits; None, and everything that
            is no such tensor, is causal.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    keys: Tensor
    real: Tensor
    mask: Any = None

    def of(self, prompt: int, places: Tensor) -> Projected:
        """The part of one prompt, at its places `[T']` among the batch's T."""
        keys = self.keys[prompt]
        new = self.query.shape[2]
        past = self.key.shape[2] - new
        seen = (keys[:past] >= 0) & self.real[prompt][keys[:past].clamp(min=0)]
        columns = torch.cat([seen.nonzero()[:, 0], places + past])
        query = self.query[prompt][:, places]
        return Projected(
            query,
            self.key[prompt][:, columns],
            self.value[prompt][:, columns],
            self.scale,
            self._seen(prompt, places, columns),
        )

    def _seen(self, prompt: int, places: Tensor, columns: Tensor) -> Tensor | None:
        """The mask at one prompt's rows and keys, `[T', S']` bool."""
        if not isinstance(self.mask, Tensor) or self.mask.dim() != 4:
            return None
        mask = self.mask.expand(len(self.query), -1, -1, -1)[prompt, 0]
        mask = mask[places[:, None], columns]
        # Masks that are added hide with the least number of their type, or with -inf.
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


@dataclass(frozen=True)
class BatchState:
    """A batch right before a decoder layer.

    Args:
        layer: number of the layer.
        depth: number of decoder layers.
        hidden: `[B, T, D]`.
        own: new columns of the layer, `[B, T]`, -1 for padding.
        real: `[B, L]` bool, new columns that are no padding.
        prompt: `[B, L]` bool, those of them that methods see: what was guessed or generated
            stands behind the prompt.
        image: `[B, L]`, for each new column the image it is a visual token of, or -1.
        totals: for each prompt, the visual tokens of its images that entered the LLM.
        projected: see `LayerSignals`, for the batch.
        entered: `[B, L, D]`, what entered layer 0, or None.
        rotary: cosine and sine that the layer before got at the columns, `[B, T, d]`, or None.
        observed: for each observed layer, `[B, T]`.
        sinks: `[B, T]` bool, or None.
        memory: for each prompt.
    """

    layer: int
    depth: int
    hidden: Tensor
    own: Tensor
    real: Tensor
    prompt: Tensor
    image: Tensor
    totals: list[list[int]]
    projected: dict[str, BatchProjection]
    entered: Tensor | None
    rotary: tuple[Tensor, Tensor] | None
    observed: dict[int, Tensor]
    sinks: Tensor | None
    memory: list[Any]

    def places(self, prompt: int) -> Tensor:
        """Places of a row's real tokens among the T, ascending; those of the prompt come first."""
        own = self.own[prompt]
        return ((own >= 0) & self.real[prompt][own.clamp(min=0)]).nonzero()[:, 0]

    def staying(self, prompt: int) -> list[int]:
        """For each image how many of its tokens stay anyway: 1 if the prompt ends with it."""
        counted = (self.image[prompt] == len(self.totals[prompt]) - 1).sum()
        *before, last = self.totals[prompt]
        return [0] * len(before) + [last - int(counted)]

    def signals(self, prompt: int) -> LayerSignals:
        """What a method sees of one prompt."""
        places = self.places(prompt)
        places = places[self.prompt[prompt][self.own[prompt][places]]]
        columns = self.own[prompt][places]
        image = self.image[prompt][columns]
        images = [(image == number).nonzero()[:, 0] for number in range(len(self.totals[prompt]))]
        return LayerSignals(
            layer=self.layer,
            depth=self.depth,
            hidden=self.hidden[prompt][places].detach(),
            images=images,
            totals=self.totals[prompt],
            text=(image < 0).nonzero()[:, 0],
            projected={name: one.of(prompt, places) for name, one in self.projected.items()},
            entered=None if self.entered is None else self.entered[prompt][columns],
            rotary=None
            if self.rotary is None
            else (self.rotary[0][prompt][places], self.rotary[1][prompt][places]),
            observed={layer: values[prompt][places] for layer, values in self.observed.items()},
            sinks=None if self.sinks is None else self.sinks[prompt][places],
            memory=self.memory[prompt],
        )


def image_numbers(visual: Tensor, prompt: Tensor) -> tuple[Tensor, list[list[int]]]:
    """Number the images of each prompt.

    Args:
        visual: `[B, L]` bool, new columns that are visual tokens.
        prompt: `[B, L]` bool, those of the prompt; its last column stays whatever it is.

    Returns:
        `[B, L]`, for each column its image or -1; and each image's number of tokens, that last
        column included. Images whose placeholders touch count as one.
    """
    columns = torch.arange(visual.shape[1], device=visual.device)
    ends = torch.where(prompt, columns, -1).max(dim=1).values
    counted = visual & prompt & (columns != ends[:, None])
    before = torch.cat([torch.zeros_like(counted[:, :1]), counted[:, :-1]], 1)
    number = (counted & ~before).cumsum(1) - 1
    image = number.masked_fill(~counted, -1)
    totals = [row[row >= 0].bincount().tolist() for row in image]
    last = (visual & prompt & (columns == ends[:, None])).any(dim=1).tolist()
    touching = (image.gather(1, (ends - 1).clamp(min=0)[:, None])[:, 0] >= 0).tolist()
    for prompt_totals, ends_visual, touches in zip(totals, last, touching, strict=True):
        if ends_visual and touches:
            prompt_totals[-1] += 1
    return image, totals
