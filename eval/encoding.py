"""Encode every image once for all methods that can share an encoder pass.

In: boundary stages of several methods, and some of the questions' images. Out: for one stage, what
the encoder gave for each of them, with the signals that its method asked for and no others. Methods
that change what the encoder does (smaller images, tokens dropped inside it) get one of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from lvlm_prune.adapters import Encoded
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.eval.halving import BatchLimit
from lvlm_prune.eval.questions import Questions
from lvlm_prune.eval.workers import in_parallel
from lvlm_prune.shared_signals import compatible, merged, narrowed
from lvlm_prune.signals import SignalRequest
from lvlm_prune.sinks import vit_sinks


@dataclass
class SharedPass:
    """An encoder pass that several stages share.

    Args:
        request: all signals that they read of the encoder.
        threshold: norm of the ViT sinks whose attention is read.
        waiting: stages that have not had their turn.
        encoded: the batches of images, once they were encoded.
    """

    request: SignalRequest
    threshold: float | None
    waiting: list[BoundaryStage]
    encoded: list[Encoded] | None = None


class SharedEncodings:
    """The encoder passes of a grid of stages; each is run when it is first needed.

    Args:
        stages: the stages, each of which gets its turn once.
        questions: the model and its images.
        images: places of those to encode.
        limit: images in one batch.
        sinks: whether `sinks` will be asked for.
    """

    def __init__(
        self,
        stages: Sequence[BoundaryStage],
        questions: Questions,
        images: Sequence[int],
        limit: BatchLimit,
        sinks: bool = False,
    ) -> None:
        self.questions = questions
        self.images = images
        self.limit = limit
        self.passes: list[SharedPass] = []
        self.sinks: list[Tensor] | None = None
        self._wants_sinks = sinks
        for stage in stages:
            if not changes_encoder(stage):
                self._announce(stage)

    def encoded(self, stage: BoundaryStage) -> list[Encoded]:
        """What the encoder gave for a stage, in batches of images.

        Args:
            stage: one of the announced stages; its pass is let go after the last of them.
        """
        if changes_encoder(stage):
            return self._in_batches(stage.encode)
        shared = next((each for each in self.passes if stage in each.waiting), None)
        if shared is None:
            raise ValueError(
                f"the stage of method {stage.method.name!r} was not announced or had its turn"
            )
        if shared.encoded is None:
            shared.encoded = self._in_batches(partial(_encode, stage, shared))
        found = [narrowed(each, shared.request, stage.request) for each in shared.encoded]
        if self._wants_sinks and self.sinks is None:
            self.sinks = _sinks(shared.encoded)
        shared.waiting.remove(stage)
        if not shared.waiting:
            shared.encoded = None
        return found

    def _in_batches(self, encode: Callable[[dict[str, Tensor]], Encoded]) -> list[Encoded]:
        """Encode all images."""
        questions, images, size = self.questions, self.images, self.limit.size

        def fitting(batch: Sequence[int]) -> list[Encoded]:
            return self.limit.run(lambda some: encode(questions.inputs(some)), batch)

        batches = [images[start : start + size] for start in range(0, len(images), size)]
        found = in_parallel(questions.loaded.model.device, fitting, batches)
        return [encoded for batch in found for encoded in batch]

    def _announce(self, stage: BoundaryStage) -> None:
        """Add a stage to the first pass that can serve it."""
        request = replace(stage.request, text=False, clip=False)
        threshold = stage.config.sink_threshold if reads_sinks_by_norm(request) else None
        for shared in self.passes:
            same = shared.threshold == threshold or not (
                reads_sinks_by_norm(request) and reads_sinks_by_norm(shared.request)
            )
            if same and compatible(shared.request, request):
                if reads_sinks_by_norm(request):
                    shared.threshold = threshold
                shared.request = merged(shared.request, request)
                shared.waiting.append(stage)
                return
        self.passes.append(SharedPass(request, threshold, [stage]))


def changes_encoder(stage: BoundaryStage) -> bool:
    """Whether a stage's encoder pass gives other features than the plain one."""
    return stage.shrink is not None or stage.encoder_budget is not None


def reads_sinks_by_norm(request: SignalRequest) -> bool:
    """Whether a request reads the attention of sinks that are found by their norms."""
    return request.sinks_layer is not None and request.sinks_ratio is None


def _encode(stage: BoundaryStage, shared: SharedPass, inputs: dict[str, Tensor]) -> Encoded:
    """Run the encoder on some images with the taps of all methods."""
    with stage.adapter.taps(shared.request):
        return stage.adapter.encode(inputs, shared.request, sink_threshold=shared.threshold)


def _sinks(batches: Sequence[Encoded]) -> list[Tensor]:
    """ViT sinks of each image, at its placeholders, `[N]` bool, by the rule without threshold."""
    found: list[Tensor] = []
    for encoded in batches:
        images: dict[int, Tensor] = {}
        for group in encoded.groups:
            for image, marked in zip(group.images, vit_sinks(group.signals.norms), strict=True):
                empty = marked.new_zeros(group.total)
                images[image] = empty.scatter(0, group.placeholders, marked)
        found += [images[image] for image in range(len(images))]
    return found
