"""Turn benchmark items into what the model reads, each distinct (image, question) once.

In: items and their image files. Out: `Questions`: for every distinct question its unpadded token
ids with all N placeholders, and the images, a batch at a time, as the model's own processor makes
them, so that any family's tensors come out right. An item that several splits share is asked once.
Prompts are the model's own chat template, nothing appended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lvlm_prune.eval.probe import Item
from lvlm_prune.images import load_image
from lvlm_prune.loading import Loaded

# What processors make with one column a token, besides the mask.
COLUMNS = ("input_ids", "token_type_ids", "mm_token_type_ids")
PROBE_TEXT = "?"  # what every image is asked first, to see how many placeholders it has


@dataclass(frozen=True)
class Asked:
    """One distinct question.

    Args:
        image: place of its image in `Questions.images`.
        text: the question.
        columns: `input_ids` and other tensors with one column a token, `[L]` each, on the CPU.
    """

    image: int
    text: str
    columns: dict[str, Tensor]

    @property
    def ids(self) -> Tensor:
        """The prompt, `[L]` int64."""
        return self.columns["input_ids"]


@dataclass(frozen=True)
class Questions:
    """Everything a run asks.

    Args:
        loaded: the model and its processor.
        images: image file names.
        folder: where they are.
        sizes: for each image, what the processor says of it besides pixels, one row each.
        pixels: for each image, the shapes of its pixels.
        totals: for each image, N.
        asked: the distinct questions, grouped by image.
        lock: held while the processor works.
    """

    loaded: Loaded
    images: list[str]
    folder: Path
    sizes: list[dict[str, Tensor]]
    pixels: list[dict[str, torch.Size]]
    totals: list[int]
    asked: list[Asked]
    lock: Lock = field(default_factory=Lock, compare=False)

    def places(self, items: Sequence[Item]) -> list[int]:
        """For each item, the place of its answer in a list of answers to `asked`."""
        known = {
            (self.images[question.image], question.text): place
            for place, question in enumerate(self.asked)
        }
        return [known[item.image, item.question] for item in items]

    def picture(self, image: int) -> Image.Image:
        """An image, by its place."""
        return load_image(self.folder / self.images[image])

    def batches(self, size: int) -> list[range]:
        """The places of the images, some at a time."""
        count = len(self.images)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def inputs(self, images: Sequence[int]) -> dict[str, Tensor]:
        """Inputs for the encoder, each image with one prompt; any thread may ask for them."""
        pictures = [self.picture(image) for image in images]
        # Tokenizers refuse to be used by two threads at once.
        with self.lock:
            return self.loaded.inputs(pictures, [PROBE_TEXT] * len(pictures))

    def arguments(self, asked: Sequence[Asked]) -> dict[str, Tensor]:
        """A batch of prompts, padded on the left, with all of their images but what they show.

        Pixels have their shape and no memory.
        """
        rows = [self.sizes[question.image] for question in asked]
        sizes = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        batch = {**padded(asked, self.loaded.processor.tokenizer.pad_token_id), **sizes}
        for name in self.pixels[0]:
            batch[name] = blank([self.pixels[question.image][name] for question in asked])
        return {name: value.to(self.loaded.model.device) for name, value in batch.items()}


def blank(shapes: Sequence[torch.Size]) -> Tensor:
    """Pixels of several images together, all zero and without memory of their own."""
    rest = [max(sides) for sides in zip(*(shape[1:] for shape in shapes), strict=True)]
    return torch.zeros(()).expand(sum(shape[0] for shape in shapes), *rest)


def padded(asked: Sequence[Asked], pad: int) -> dict[str, Tensor]:
    """Pad prompts on the left, `[B, L]`."""
    length = max(len(question.ids) for question in asked)

    def stacked(rows: Sequence[Tensor], fill: int) -> Tensor:
        return torch.stack(
            [torch.cat([row.new_full((length - len(row),), fill), row]) for row in rows]
        )

    batch = {
        name: stacked([question.columns[name] for question in asked], 0)
        for name in asked[0].columns
        if name != "input_ids"
    }
    ids = [question.ids for question in asked]
    masks = [torch.ones_like(row) for row in ids]
    return {"input_ids": stacked(ids, pad), "attention_mask": stacked(masks, 0), **batch}


def prepare(
    loaded: Loaded, items: Sequence[Item], images: Sequence[str], folder: Path
) -> Questions:
    """Process images and prompts with the model's own processor.

    How a prompt is expanded depends on the question and on the image's size alone, so each pair
    of them is processed once.

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
    placeholder = loaded.model.config.image_token_id
    asked: list[Asked] = []
    sizes: list[dict[str, Tensor]] = []
    pixels: list[dict[str, torch.Size]] = []
    totals: list[int] = []
    known: dict[tuple[bytes, str], dict[str, Tensor]] = {}
    for number, image in enumerate(images):
        picture = load_image(folder / image)
        (plain,), size, shapes = _processed(loaded, picture, [PROBE_TEXT])
        key = plain["input_ids"].numpy().tobytes()
        new = [text for text in texts[image] if (key, text) not in known]
        if new:
            known.update(
                ((key, text), columns)
                for text, columns in zip(new, _processed(loaded, picture, new)[0], strict=True)
            )
        sizes.append(size)
        pixels.append(shapes)
        totals.append(int((plain["input_ids"] == placeholder).sum()))
        asked += [Asked(number, text, known[key, text]) for text in texts[image]]
    return Questions(loaded, list(images), folder, sizes, pixels, totals, asked)


def _processed(
    loaded: Loaded, picture: Image.Image, texts: Sequence[str]
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], dict[str, torch.Size]]:
    """The columns of some questions about one image, its sizes, and the shapes of all pixels."""
    batch: dict[str, Any] = dict(
        loaded.processor(
            text=[loaded.prompt(text) for text in texts],
            images=[picture] * len(texts),
            return_tensors="pt",
            padding=True,
        )
    )
    mask = batch.pop("attention_mask").bool()
    columns = {name: batch.pop(name) for name in COLUMNS if name in batch}
    rows = [
        {name: value[row][mask[row]] for name, value in columns.items()}
        for row in range(len(texts))
    ]
    # Pixels have as many rows as the image has tiles or patches; sizes have one.
    shapes = {name: value.shape for name, value in batch.items() if name.startswith("pixel_")}
    sizes = {name: value[:1] for name, value in batch.items() if name not in shapes}
    return rows, sizes, shapes
