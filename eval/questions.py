"""Turn benchmark items into what the model reads, each distinct (image, question) once.

In: items and their image files. Out: `Questions`: pixels of every image `[I, ...]`, and for every
distinct question its unpadded token ids with all N placeholders. An item that several splits share
is asked once. Prompts are the model's own chat template, nothing appended.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lvlm_prune.boundary import TOKEN_ARGUMENTS
from lvlm_prune.eval.probe import Item
from lvlm_prune.images import load_image
from lvlm_prune.loading import Loaded


@dataclass(frozen=True)
class Asked:
    """One distinct question.

    Args:
        image: place of its image in `Questions.images`.
        text: the question.
        ids: prompt, `[L]` int64, on the CPU.
    """

    image: int
    text: str
    ids: Tensor


@dataclass(frozen=True)
class Questions:
    """Everything a run asks.

    Args:
        images: image file names.
        pixels: tensors with one row an image, on the CPU, such as `pixel_values`.
        asked: the distinct questions, grouped by image.
    """

    images: list[str]
    pixels: dict[str, Tensor]
    asked: list[Asked]

    def places(self, items: Sequence[Item]) -> list[int]:
        """For each item, the place of its answer in a list of answers to `asked`."""
        known = {
            (self.images[question.image], question.text): place
            for place, question in enumerate(self.asked)
        }
        return [known[item.image, item.question] for item in items]

    def pixel_batches(self, size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """The pixels, some images at a time."""
        for start in range(0, len(self.images), size):
            yield {
                name: value[start : start + size].to(device) for name, value in self.pixels.items()
            }


def prepare(
    loaded: Loaded, items: Sequence[Item], images: Sequence[str], folder: Path
) -> Questions:
    """Process images and prompts with the model's own processor.

    Args:
        loaded: model and processor.
        items: benchmark lines.
        images: file names, each used by at least one item.
        folder: where the image files are.

    Raises:
        ImageFileError: an image that cannot be read.
    """
    texts: dict[str, dict[str, None]] = {image: {} for image in images}
    for item in items:
        texts[item.image][item.question] = None
    asked: list[Asked] = []
    rows: list[dict[str, Tensor]] = []
    for number, image in enumerate(images):
        picture = load_image(folder / image)
        prompts = [loaded.prompt(text) for text in texts[image]]
        batch = loaded.processor(
            text=prompts, images=[picture] * len(prompts), return_tensors="pt", padding=True
        )
        ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
        rows.append(
            {name: value[:1] for name, value in batch.items() if name not in TOKEN_ARGUMENTS}
        )
        for text, row, real in zip(texts[image], ids, mask.bool(), strict=True):
            asked.append(Asked(number, text, row[real]))
    pixels = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    return Questions(list(images), pixels, asked)
