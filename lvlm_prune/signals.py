"""What a method may rank visual tokens by, and how it asks for it.

A method states a `SignalRequest`; the family's adapter answers with `Signals` of all images of one
size, at LLM-token granularity: row i of every tensor belongs to candidate token i of the prompt.
Where several patches make one visual token (2x2 merger, pixel shuffle), attention, norms and keys
are means over the patches, and an encoder row is the patches' rows side by side.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SignalRequest:
    """The signals a method needs beyond features, encoder rows, norms and the grid.

    Args:
        cls_layers: encoder layers (0-based) whose CLS row is read.
        received_layers: encoder layers whose received attention is read.
        received_rows: number of sampled query rows for it; None is exact.
        joint_layer: layer whose CLS row is read as one head over the full width, or None.
        keys_layer: encoder layer whose keys are read, or None.
        sinks_layer: layer where the attention that ViT sink tokens give is read, or None.
        sinks_ratio: for it, sinks are tokens that receive this many times the mean attention;
            None takes the ViT sinks by norm.
        progressive: layers that a method which drops units inside the encoder takes part in.
        text: whether the embeddings of the prompt's text tokens are needed.
        clip: whether CLIP embeddings of patches and question are needed.
        fingerprint: whether a number that depends on the image's pixels alone is needed.
    """

    cls_layers: tuple[int, ...] = ()
    received_layers: tuple[int, ...] = ()
    received_rows: int | None = None
    joint_layer: int | None = None
    keys_layer: int | None = None
    sinks_layer: int | None = None
    sinks_ratio: float | None = None
    progressive: tuple[int, ...] = ()
    text: bool = False
    clip: bool = False
    fingerprint: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        """The encoder layers that need a tap, ascending."""
        single = (self.joint_layer, self.keys_layer, self.sinks_layer)
        named = {layer for layer in single if layer is not None}
        return tuple(sorted({*self.cls_layers, *self.received_layers, *self.progressive, *named}))


@dataclass(frozen=True)
class Signals:
    """Signals of I images that have the same grid; batch first.

    Args:
        features: what the LLM would get, `[I, N, D]`.
        hidden: encoder rows that enter the projector, `[I, N, d]`.
        grid: (h, w) with h * w == N; (1, N) where tokens of several tiles are ranked together.
        norms: L2 norm of each encoder row, `[I, N]` float32.
        cls_hidden: encoder row of the CLS token at the same layer, `[I, d]`, or None.
        cls: CLS rows of the requested layers, `[I, M, H, N]` float32, or None.
        received: received attention of the requested layers, `[I, M, N]` float32, or None.
        joint: CLS row over the full width, `[I, N]` float32, or None.
        keys: keys of the patches, `[I, H, N, d_head]`, or None.
        sinks_given: mean attention that sink tokens give, `[I, H, N]` float32, or None.
        progress: scores of units that were dropped step by step inside the encoder, `[I, N]`
            float32, those of survivors above all others, or None.
        text: for each image, embeddings of the text tokens it is asked about with, `[T, D]`, or
            None.
        clip_image: CLIP embeddings of the tokens, `[I, N, e]` float32, or None.
        clip_text: for each image, CLIP embeddings of its question's pieces, `[M, e]`, or None.
        fingerprint: one non-negative int an image, `[I]` int64, or None.
        prompt_grid: grid of the image's placeholder tokens where the encoder saw a smaller image
            than the processor made, otherwise None (the grid itself).
    """

    features: Tensor
    hidden: Tensor
    grid: tuple[int, int]
    norms: Tensor
    cls_hidden: Tensor | None = None
    cls: Tensor | None = None
    received: Tensor | None = None
    joint: Tensor | None = None
    keys: Tensor | None = None
    sinks_given: Tensor | None = None
    progress: Tensor | None = None
    text: list[Tensor] | None = None
    clip_image: Tensor | None = None
    clip_text: list[Tensor] | None = None
    fingerprint: Tensor | None = None
    prompt_grid: tuple[int, int] | None = None

    @property
    def attention(self) -> Tensor:
        """Attention that ranks the tokens, `[I, M, H, N]`: CLS rows, or else received attention.

        Received attention is a mean over heads, so H is 1 there.
        """
        if self.cls is not None:
            return self.cls
        assert self.received is not None
        return self.received.unsqueeze(2)

    def images(self, index: list[int]) -> "Signals":
        """The signals of some of the images, in the order given."""
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                value = value[index]
            elif isinstance(value, list):
                value = [value[number] for number in index]
            values[item.name] = value
        return Signals(**values)

    def tokens(self, rows: Tensor, grid: tuple[int, int] | None = None) -> "Signals":
        """The signals of some tokens of every image.

        Args:
            rows: token indices, `[n]`.
            grid: the grid that they form; None where they form none.
        """

        def of(value: Tensor | None, dim: int) -> Tensor | None:
            return None if value is None else value.index_select(dim, rows)

        return Signals(
            features=self.features[:, rows],
            hidden=self.hidden[:, rows],
            grid=(1, rows.shape[0]) if grid is None else grid,
            norms=self.norms[:, rows],
            cls_hidden=self.cls_hidden,
            cls=of(self.cls, 3),
            received=of(self.received, 2),
            joint=of(self.joint, 1),
            keys=of(self.keys, 2),
            sinks_given=of(self.sinks_given, 2),
            progress=of(self.progress, 1),
            text=self.text,
            clip_image=of(self.clip_image, 1),
            clip_text=self.clip_text,
            fingerprint=self.fingerprint,
        )


def row_norms(hidden: Tensor) -> Tensor:
    """L2 norm of each row, `[..., d]` to `[...]` float32."""
    return torch.linalg.vector_norm(hidden.detach().float(), dim=-1)
