"""What a method may rank visual tokens by, and how it asks for it.

A method states a `SignalRequest`; the family's adapter answers with `Signals` of all images of one
size, at LLM-token granularity: row i of every tensor belongs to visual token i of the prompt.
"""

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class SignalRequest:
    """The signals a method needs beyond features, encoder rows and the grid.

    Args:
        cls_layers: encoder layers (0-based) whose CLS row is read.
        received_layer: encoder layer whose received attention is read, or None.
        received_rows: number of sampled query rows for it; None is exact.
        keys_layer: encoder layer whose keys are read, or None.
        fingerprint: whether a number that depends on the image's pixels alone is needed.
    """

    cls_layers: tuple[int, ...] = ()
    received_layer: int | None = None
    received_rows: int | None = None
    keys_layer: int | None = None
    fingerprint: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        """The encoder layers that need a tap, ascending."""
        optional = {self.received_layer, self.keys_layer} - {None}
        return tuple(
            sorted({*self.cls_layers, *(layer for layer in optional if layer is not None)})
        )


@dataclass(frozen=True)
class Signals:
    """Signals of I images that have the same grid; batch first.

    Args:
        features: what the LLM would get, `[I, N, D]`.
        hidden: encoder rows that enter the projector, `[I, N, d]`.
        grid: (h, w) with h * w == N.
        cls_hidden: encoder row of the CLS token at the same layer, `[I, d]`, or None.
        cls: CLS rows of the requested layers, `[I, M, H, N]` float32, or None.
        received: received attention, `[I, N]` float32, or None.
        keys: keys of the patches, `[I, H, N, d_head]`, or None.
        fingerprint: one non-negative int an image, `[I]` int64, or None.
        prompt_grid: grid of the image's placeholder tokens where the encoder saw a smaller image
            than the processor made, otherwise None (the grid itself).
    """

    features: Tensor
    hidden: Tensor
    grid: tuple[int, int]
    cls_hidden: Tensor | None = None
    cls: Tensor | None = None
    received: Tensor | None = None
    keys: Tensor | None = None
    fingerprint: Tensor | None = None
    prompt_grid: tuple[int, int] | None = None

    @property
    def norms(self) -> Tensor:
        """L2 norm of each encoder row, `[I, N]` float32."""
        return self.hidden.detach().float().norm(dim=-1)

    def images(self, index: list[int]) -> "Signals":
        """The signals of some of the images, in the order given."""
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            values[item.name] = value[index] if isinstance(value, Tensor) else value
        return Signals(**values)

    def tokens(self, rows: Tensor) -> "Signals":
        """The signals of some tokens of every image (the grid is then only nominal).

        Args:
            rows: ascending token indices, `[n]`.
        """
        return Signals(
            features=self.features[:, rows],
            hidden=self.hidden[:, rows],
            grid=(1, rows.shape[0]),
            cls_hidden=self.cls_hidden,
            cls=None if self.cls is None else self.cls[..., rows],
            received=None if self.received is None else self.received[:, rows],
            keys=None if self.keys is None else self.keys[:, :, rows],
            fingerprint=self.fingerprint,
        )
