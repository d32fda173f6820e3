"""A pruned model that answers batches of chat prompts made of texts and images.

In: for each prompt its parts in order, texts and Pillow images. Out: raw answers. The model carries
an attachment as long as this object is open; batches are padded on the left and go through the
stock `generate`. Nothing is caught here: a failed batch is an exception, never an empty answer.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image

from lvlm_prune.attachment import attach
from lvlm_prune.eval.integrations.arguments import Arguments
from lvlm_prune.eval.integrations.generation import Generation
from lvlm_prune.loading import load

Part = str | Image.Image
PLACEHOLDER = "<image>"  # how task files mark the place of an image in a text


class PrunedChat:
    """A loaded model with its attachment.

    Args:
        arguments: the model and how to prune it.
        device: torch device.

    Raises:
        ValueError, TypeError, OSError: see `load` and `attach`.
    """

    def __init__(self, arguments: Arguments, device: str) -> None:
        self.arguments = arguments
        with world_size_hidden():
            self.loaded = load(arguments.pretrained, device)
        self.handle = attach(self.loaded.model, arguments.config)

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Sequence[Part]], generation: Generation) -> list[str]:
        """Answer a batch.

        Args:
            prompts: the parts of each prompt.
            generation: how to generate.

        Returns:
            The answers, without special tokens, cut where `generation` says.
        """
        texts = [self._template(parts) for parts in prompts]
        images = [
            [part.convert("RGB") for part in parts if isinstance(part, Image.Image)]
            for parts in prompts
        ]
        batch = self.loaded.processor(
            text=texts, images=images if any(images) else None, return_tensors="pt", padding=True
        )
        model = self.loaded.model
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        output = model.generate(**inputs, **generation.options)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers = self.loaded.processor.batch_decode(new, skip_special_tokens=True)
        return [generation.cut(answer) for answer in answers]

    def detach(self) -> None:
        """Give the model back as it was."""
        self.handle.detach()

    def _template(self, parts: Sequence[Part]) -> str:
        """The chat prompt of one user turn, up to where the answer begins."""
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in parts
        ]
        return self.loaded.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )


def interleave(text: str, images: Sequence[object]) -> list[Part]:
    """The parts of a prompt: images at their placeholders, or before the text without any.

    Args:
        text: of a task, perhaps with `<image>` where images belong.
        images: its images in order.

    Raises:
        TypeError: something else than an image, such as the path of a video.
        ValueError: placeholders for another number of images.
    """
    found: list[Part] = []
    for image in images:
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"only images can be pruned here, got {type(image).__name__} {str(image)[:80]!r}; "
                "choose a task whose visuals are images"
            )
        found.append(image)
    pieces = text.split(PLACEHOLDER)
    if len(pieces) == 1:
        return [*found, text]
    if len(pieces) != len(found) + 1:
        raise ValueError(
            f"{len(pieces) - 1} placeholders {PLACEHOLDER} for {len(found)} images in "
            f"{text[:200]!r}; a task must mark as many as it hands over, or none"
        )
    parts: list[Part] = [pieces[0]]
    for image, piece in zip(found, pieces[1:], strict=True):
        parts += [image, piece]
    return [part for part in parts if part != ""]


@contextmanager
def world_size_hidden() -> Iterator[None]:
    """Hide `WORLD_SIZE` while a model is loaded: each process has a whole one.

    transformers before 5.20 takes it for a wish for tensor parallelism.
    """
    size = os.environ.pop("WORLD_SIZE", None)
    try:
        yield
    finally:
        if size is not None:
            os.environ["WORLD_SIZE"] = size
