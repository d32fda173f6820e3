"""The visual tokens that one stage chooses: once an image, or once a question.

In: a boundary stage and what the encoder gave for some images. Out: choices for any batch of
questions, and a stage that carries them into `generate` by the path of an attached model. A method
that reads the question chooses anew for each one, from the image that was encoded once.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lvlm_prune.adapters import Encoded, ImageGroup
from lvlm_prune.adapters.encoded import Grouping, Part
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.eval.questions import Asked
from lvlm_prune.eval.workers import in_parallel
from lvlm_prune.question import with_question
from lvlm_prune.stage import Choice

Single = tuple[Hashable, ImageGroup]


class ReadyStage(BoundaryStage):
    """A stage whose images were encoded and whose tokens were chosen before the call.

    Args:
        stage: the stage that chose.
        choices: for each prompt of the call, the choice for its only image.
        like: an encoder output of the same model.
        marks: numbers of the tokens that are handed to the LLM, out of the stage's.
    """

    def __init__(
        self,
        stage: BoundaryStage,
        choices: list[Choice],
        like: Encoded,
        marks: tuple[str, ...] = (),
    ) -> None:
        self.__dict__.update(stage.__dict__)
        self.marks = marks
        self._choices = choices
        self._like = replace(like, groups=[])

    def encode(self, arguments: Mapping[str, Any], modality: str = "image") -> Encoded:
        """Nothing is left to encode."""
        return self._like

    def select(self, encoded: Encoded, protected: set[int] | None = None) -> list[Choice]:
        """What was chosen."""
        return self._choices

    def _protected(self, new: dict[str, Tensor], encoded: Encoded, modality: str) -> set[int]:
        """A chat prompt ends with words, never with an image."""
        return set()


class Chosen:
    """The choices of one stage.

    Args:
        stage: the stage.
        images: places of the images.
        encoded: what the encoder gave for them, in batches.
        sinks: ViT sinks of each, `[N]` bool, or None where nobody looks for them.
    """

    def __init__(
        self,
        stage: BoundaryStage,
        images: Sequence[int],
        encoded: Sequence[Encoded],
        sinks: Sequence[Tensor] | None = None,
    ) -> None:
        self.stage = stage
        self._like = encoded[0]
        self._singles: dict[int, Single] = {}
        self.by_image: dict[int, Choice] | None = None
        self.sinks = None if sinks is None else dict(zip(images, sinks, strict=True))
        if stage.request.text or stage.request.clip:
            every = (single for batch in encoded for single in singles(batch))
            self._singles = dict(zip(images, every, strict=True))
        else:
            batches = in_parallel(stage.adapter.model.device, stage.select, encoded)
            choices = (choice for batch in batches for choice in batch)
            self.by_image = dict(zip(images, choices, strict=True))

    def choices(self, asked: Sequence[Asked], arguments: Mapping[str, Any]) -> list[Choice]:
        """One choice for each question.

        Args:
            asked: questions about images.
            arguments: their padded prompts.
        """
        places = [question.image for question in asked if question.image is not None]
        if self.by_image is not None:
            return [self.by_image[image] for image in places]
        grouping = Grouping()
        for place, image in enumerate(places):
            key, group = self._singles[image]
            grouping.add(key, replace(group, images=[place]))
        stage, encoded = self.stage, replace(self._like, groups=grouping.groups())
        return stage.select(
            with_question(encoded, stage.adapter, stage.request, arguments, "image", stage.clip)
        )

    def ready(self, choices: list[Choice], marks: tuple[str, ...] = ()) -> ReadyStage:
        """A stage that hands these choices to a call with one image a prompt."""
        return ReadyStage(self.stage, choices, self._like, marks)


def singles(encoded: Encoded) -> list[Single]:
    """Each image of a batch alone, with a key that images share whose tokens lie alike."""
    found: dict[int, Single] = {}
    for group in encoded.groups:
        key = (
            group.signals.prompt_grid,
            group.total,
            *(part.rows.cpu().numpy().tobytes() for part in (*group.parts, *group.tiles)),
            *(part.grid for part in group.parts),
        )
        for row, image in enumerate(group.images):
            found[image] = key, _single(group, row)
    return [found[image] for image in range(len(found))]


def _single(group: ImageGroup, row: int) -> ImageGroup:
    """One image of a group."""

    def part(of: Part) -> Part:
        return of if of.cls_hidden is None else replace(of, cls_hidden=of.cls_hidden[[row]])

    return replace(
        group,
        images=[0],
        signals=group.signals.images([row]),
        parts=tuple(part(each) for each in group.parts),
        tiles=tuple(part(each) for each in group.tiles),
        features=None if group.features is None else group.features[[row]],
        deepstack=tuple(layer[[row]] for layer in group.deepstack),
    )
