"""Encode every image once for all methods that can share an encoder pass.

In: boundary stages of several methods, and pixels. Out: for one stage, its choices for every image,
made from signals that were read together with those of other methods. Methods that make
the image smaller, or read other layers of the same signal, get a pass of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lvlm_prune.adapters import Encoded, ImageGroup
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.eval.questions import Questions
from lvlm_prune.signals import SignalRequest
from lvlm_prune.sinks import vit_sinks
from lvlm_prune.stage import Choice


@dataclass
class SharedPass:
    """An encoder pass that several stages share.

    Args:
        request: all signals that they read.
        grid: grid that the encoder is given, or None for the full one.
        encoded: the batches of images, once they were encoded.
    """

    request: SignalRequest
    grid: tuple[int, int] | None
    encoded: list[Encoded] | None = None


class SharedEncodings:
    """The encoder passes of a grid of stages; each pass is run when it is first needed."""

    def __init__(
        self, stages: Sequence[BoundaryStage], questions: Questions, batch_size: int
    ) -> None:
        self.questions = questions
        self.batch_size = batch_size
        self.passes: list[SharedPass] = []
        for stage in stages:
            found = self._find(stage)
            if found is None:
                self.passes.append(SharedPass(stage.request, stage.encoder_grid))
            else:
                found.request = merged(found.request, stage.request)

    def choices(self, stage: BoundaryStage) -> tuple[list[Choice], type]:
        """The choices of a stage for every image, in the order of `Questions.images`.

        Args:
            stage: one of the announced stages.

        Returns:
            One choice for each image, and the class of encoder output that the model takes.
        """
        shared = self._find(stage)
        if shared is None:
            raise ValueError(f"the stage of method {stage.method.name!r} was not announced")
        if shared.encoded is None:
            device = stage.adapter.model.device
            shared.encoded = [
                _encode(stage, pixels, shared)
                for pixels in self.questions.pixel_batches(self.batch_size, device)
            ]
        chosen: list[Choice] = []
        for encoded in shared.encoded:
            chosen += stage.select(narrowed(encoded, shared.request, stage.request))
        return chosen, shared.encoded[0].output_type

    def sinks(self) -> list[Tensor]:
        """ViT sinks of every image at full size, `[N]` bool each, by the rule without threshold."""
        full = next(shared.encoded for shared in self.passes if shared.encoded and not shared.grid)
        return [
            row
            for encoded in full
            for group in encoded.groups
            for row in vit_sinks(group.signals.norms)
        ]

    def _find(self, stage: BoundaryStage) -> SharedPass | None:
        """The pass that a stage belongs to."""
        for shared in self.passes:
            if shared.grid == stage.encoder_grid and compatible(shared.request, stage.request):
                return shared
        return None


def compatible(one: SignalRequest, other: SignalRequest) -> bool:
    """Whether one encoder pass can serve two requests."""
    names = ("received_layer", "received_rows", "keys_layer")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return all(a == b or a is None or b is None for a, b in pairs)


def merged(one: SignalRequest, other: SignalRequest) -> SignalRequest:
    """The request for the signals of two compatible requests."""
    return SignalRequest(
        cls_layers=tuple(sorted({*one.cls_layers, *other.cls_layers})),
        received_layer=one.received_layer if other.received_layer is None else other.received_layer,
        received_rows=one.received_rows if other.received_rows is None else other.received_rows,
        keys_layer=one.keys_layer if other.keys_layer is None else other.keys_layer,
        fingerprint=one.fingerprint or other.fingerprint,
    )


def narrowed(encoded: Encoded, have: SignalRequest, want: SignalRequest) -> Encoded:
    """The CLS rows that a method asked for, where more layers were read."""
    if have.cls_layers == want.cls_layers or not want.cls_layers:
        return encoded
    places = [have.cls_layers.index(layer) for layer in want.cls_layers]
    groups = []
    for group in encoded.groups:
        assert group.signals.cls is not None
        signals = replace(group.signals, cls=group.signals.cls[:, places])
        groups.append(ImageGroup(group.images, signals))
    return Encoded(groups, encoded.output_type)


def _encode(stage: BoundaryStage, pixels: dict[str, Tensor], shared: SharedPass) -> Encoded:
    """Run the encoder on some images with the taps of all methods."""
    with stage.adapter.taps(shared.request):
        return stage.adapter.encode(pixels, shared.request, shared.grid)
