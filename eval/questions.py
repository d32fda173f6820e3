"""Turn benchmark items into what the model reads, each distinct (image, question) once.

In: items and their image files. Out: `Questions`: for every distinct question its unpadded token
ids with all N placeholders, and the images, a batch at a time, as the model's own processor makes
them, so that any family's tensors come out right. An item that several splits share is asked once.
Prompts are the model's own chat template, around a question that stands in a template of the
caller's. An image that cannot be read is noted, and its questions are left to the caller.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lvlm_prune.errors import ImageFileError
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.images import load_image
from lvlm_prune.loading import Loaded

# What processors make with one column a token, besides the mask.
COLUMNS = ("input_ids", "token_type_ids", "mm_token_type_ids")
PROBE_TEXT = "?"  # what every image is asked first, to see how many placeholders it has
PLAIN = "{question}"  # the template that adds nothing


@dataclass(frozen=True)
class Asked:
    """One distinct question.

    Args:
        image: place of its image in `Questions.images`; None without one.
        text: the question as the model reads it, the template filled in.
        columns: `input_ids` and other tensors with one column a token, `[L]` each, on the CPU;
            empty where the image cannot be read.
        question: as the benchmark has it.
    """

    image: int | None
    text: str
    columns: dict[str, Tensor]
    question: str = ""

    @property
    def ids(self) -> Tensor:
        """The prompt, `[L]` int64."""
        return self.columns["input_ids"]


@dataclass(frozen=True)
class Questions:
    """Everything a run asks.

    Args:
        loaded: the model and its processor.
        images: image names.
        files: the file of each.
        sizes: for each image, what the processor says of it besides pixels, one row each.
        pixels: for each image, the shapes of its pixels.
        totals: for each image, N; 0 where it cannot be read.
        asked: the distinct questions, grouped by image, those without one last.
        broken: why an image cannot be read, by its place.
        checksums: CRC-32 of each image file, 8 hex digits; None where there is no file.
        lock: held while the processor works.
    """

    loaded: Loaded
    images: list[str]
    files: list[Path]
    sizes: list[dict[str, Tensor]]
    pixels: list[dict[str, torch.Size]]
    totals: list[int]
    asked: list[Asked]
    broken: dict[int, str] = field(default_factory=dict)
    checksums: list[str | None] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock, compare=False)

    def places(self, items: Sequence[Item]) -> list[int]:
        """For each item, the place of its answer in a list of answers to `asked`."""
        known = {
            (self.name(question), question.question): place
            for place, question in enumerate(self.asked)
        }
        return [known[item.image, item.question] for item in items]

    def name(self, question: Asked) -> str | None:
        """Name of a question's image."""
        return None if question.image is None else self.images[question.image]

    def readable(self) -> list[int]:
        """Places of the images that can be read."""
        return [place for place in range(len(self.images)) if place not in self.broken]

    def picture(self, image: int) -> Image.Image:
        """An image, by its place."""
        return load_image(self.files[image])

    def inputs(self, images: Sequence[int]) -> dict[str, Tensor]:
        """Inputs for the encoder, each image with one prompt; any thread may ask for them."""
        pictures = [self.picture(image) for image in images]
        # Tokenizers refuse to be used by two threads at once.
        with self.lock:
            return self.loaded.inputs(pictures, [PROBE_TEXT] * len(pictures))

    def arguments(self, asked: Sequence[Asked]) -> dict[str, Tensor]:
        """A batch of prompts, padded on the left, with all of their images but what they show.

        Pixels have their shape and no memory. Either all have an image or none.
        """
        batch = padded(asked, self.loaded.processor.tokenizer.pad_token_id)
        images = [question.image for question in asked if question.image is not None]
        if images:
            rows = [self.sizes[image] for image in images]
            batch |= {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
            for name in self.pixels[images[0]]:
                batch[name] = blank([self.pixels[image][name] for image in images])
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
    loaded: Loaded,
    items: Sequence[Item],
    files: Mapping[str, Path],
    template: str = PLAIN,
    done: Callable[[int], Any] = lambda count: None,
) -> Questions:
    """Process images and prompts with the model's own processor.

    How a prompt is expanded depends on the question and on the image's size alone, so each pair
    of them is processed once.

    Args:
        loaded: model and processor.
        items: benchmark lines.
        files: image file of every image name.
        template: what the model is asked, with `{question}` in it.
        done: told the number of images that were read since.
    """
    texts: dict[str | None, dict[str, None]] = {}
    for item in items:
        texts.setdefault(item.image, {})[item.question] = None
    images = [image for image in texts if image is not None]
    found = Questions(loaded, images, [files[image] for image in images], [], [], [], [])
    known: dict[tuple[bytes, str], dict[str, Tensor]] = {}
    for number, image in enumerate(images):
        _add(found, number, list(texts[image]), template, known)
        done(1)
    for question in texts.get(None, ()):
        text = filled(template, question)
        columns = {"input_ids": _plain_ids(loaded, text)}
        found.asked.append(Asked(None, text, columns, question))
    return found


def filled(template: str, question: str) -> str:
    """A question in its template; other braces are left alone."""
    return template.replace(PLAIN, question)


def _add(
    found: Questions,
    number: int,
    questions: Sequence[str],
    template: str,
    known: dict[tuple[bytes, str], dict[str, Tensor]],
) -> None:
    """Read one image and make its prompts."""
    loaded = found.loaded
    found.checksums.append(_checksum(found.files[number]))
    texts = [filled(template, question) for question in questions]
    try:
        picture = found.picture(number)
        (plain,), size, shapes = _processed(loaded, picture, [PROBE_TEXT])
    except ValueError as error:
        # Processors say so of an image that is too narrow for them.
        named = isinstance(error, ImageFileError)
        found.broken[number] = str(error) if named else f"{found.files[number]}: {error}"
        found.sizes.append({})
        found.pixels.append({})
        found.totals.append(0)
        pairs = zip(texts, questions, strict=True)
        found.asked.extend(Asked(number, text, {}, question) for text, question in pairs)
        return
    key = plain["input_ids"].numpy().tobytes()
    new = [text for text in texts if (key, text) not in known]
    if new:
        rows = _processed(loaded, picture, new)[0]
        known.update(((key, text), columns) for text, columns in zip(new, rows, strict=True))
    found.sizes.append(size)
    found.pixels.append(shapes)
    found.totals.append(int((plain["input_ids"] == loaded.model.config.image_token_id).sum()))
    found.asked.extend(
        Asked(number, text, known[key, text], question)
        for text, question in zip(texts, questions, strict=True)
    )


def _checksum(path: Path) -> str | None:
    """What tells a file from another of its name."""
    return f"{zlib.crc32(path.read_bytes()):08x}" if path.is_file() else None


def _plain_ids(loaded: Loaded, text: str) -> Tensor:
    """The prompt of a question without an image, `[L]`."""
    ids: Tensor = loaded.text_inputs([text])["input_ids"][0].cpu()
    return ids


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
