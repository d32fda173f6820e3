"""What a stage chose for the first images, for pictures.

In: a boundary stage and the questions. Out: its choices for some images, with their ViT sinks where
the encoder is the plain one. The images are encoded anew: there are few of them.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.eval.chosen import Chosen
from lvlm_prune.eval.encoding import SharedEncodings
from lvlm_prune.eval.halving import BatchLimit
from lvlm_prune.eval.questions import Asked, Questions
from lvlm_prune.stage import Choice


@torch.inference_mode()
def pictured_choices(
    stage: BoundaryStage, questions: Questions, asked: Sequence[Asked], sinks: bool
) -> list[Choice]:
    """Choose the visual tokens of some questions' images.

    Args:
        stage: the stage.
        questions: with the model.
        asked: one question for each image.
        sinks: whether to mark ViT sinks.
    """
    images = [question.image for question in asked if question.image is not None]
    encodings = SharedEncodings([stage], questions, images, BatchLimit(len(images)), sinks=sinks)
    encoded = encodings.encoded(stage)
    marked = encodings.sinks if stage.shrink is None else None
    chosen = Chosen(stage, images, encoded, marked)
    choices = chosen.choices(asked, questions.arguments(asked))
    if chosen.sinks is None or chosen.by_image is None:
        return choices
    found = chosen.sinks
    return [replace(one, sinks=found[image]) for one, image in zip(choices, images, strict=True)]
