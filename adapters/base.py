"""Adapter: what a family must say so that its visual tokens can be pruned.

A family declares where its modules are, as dotted paths that are checked at attach, and how its
encoder's signals become one row a visual token. Encoding itself is the call that the model's own
`generate` makes (`base_model.get_image_features`), with taps on the attention modules that a method
asked for. In: the keyword arguments of the model's forward. Out: `Encoded`.
"""

import inspect
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.signals import SignalRequest, Signals
from lvlm_prune.tap import install_tap, remove_tap


@dataclass(frozen=True)
class ImageGroup:
    """Images of one size: their places in the prompt's order of images, and their signals."""

    images: list[int]
    signals: Signals


@dataclass(frozen=True)
class Encoded:
    """Everything the encoder gave for one call.

    Args:
        groups: the images, grouped by size.
        output_type: class of the encoder output that the model reads features from.
    """

    groups: list[ImageGroup]
    output_type: type[ModelOutput]

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(len(group.images) for group in self.groups)


class Adapter(ABC):
    """A family's declaration, bound to one model. Subclasses fill in the class variables."""

    model_type: ClassVar[str]
    covers: ClassVar[str]  # the models, for messages and `lvlm-prune models`
    vision_layers: ClassVar[str]  # path from the top model to the encoder's layers
    attention: ClassVar[str]  # attention module inside a layer
    projector: ClassVar[str]  # path to the projector

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self._check_capabilities()
        self._check_variant()
        self.shape = self._encoder_shape()

    @abstractmethod
    def _check_variant(self) -> None:
        """Raise UnsupportedModelError, with a sentence, for variants that cannot be pruned."""

    @abstractmethod
    def _encoder_shape(self) -> EncoderShape:
        """Depth, projected layer and CLS token of the vision encoder."""

    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Grid (h, w) of the visual tokens of an image."""

    @abstractmethod
    def encode(
        self,
        inputs: Mapping[str, Any],
        request: SignalRequest,
        encoder_grid: tuple[int, int] | None = None,
    ) -> Encoded:
        """Encode the images of a call and read the signals that were asked for.

        Args:
            inputs: keyword arguments of the model's forward, with the pixels.
            request: the signals a method needs.
            encoder_grid: encode the images at this many patches instead of their full size.
        """

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder token of images."""
        return self.model.config.image_token_id

    def project(self, hidden: Tensor) -> Tensor:
        """Project merged encoder rows, `[n, d]` to `[n, D]`."""
        return self.model.get_submodule(self.projector)(hidden)

    def attention_modules(self, request: SignalRequest) -> dict[int, nn.Module]:
        """The attention modules of the layers a request names."""
        layers = self.model.get_submodule(self.vision_layers)
        return {layer: layers[layer].get_submodule(self.attention) for layer in request.layers}

    @contextmanager
    def taps(self, request: SignalRequest) -> Iterator[None]:
        """Keep the taps of a request installed inside the block."""
        with ExitStack() as undo:
            for module in self.attention_modules(request).values():
                install_tap(module)
                undo.callback(remove_tap, module)
            yield

    def encoder_arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that the model's `generate` would pass to `get_image_features`."""
        names = inspect.signature(self.model.base_model.get_image_features).parameters
        return {
            name: inputs[name]
            for name in names
            if name != "kwargs" and inputs.get(name) is not None
        }

    def _check_capabilities(self) -> None:
        """Check once that transformers and the model have what pruning rests on."""
        forward = inspect.signature(type(self.model).forward).parameters
        # Only the model with a language-modelling head takes labels; its body has no generate.
        if "mm_encoder_outputs" not in forward or "labels" not in forward:
            raise UnsupportedModelError(
                f"pruning needs a model with a language-modelling head whose forward accepts "
                f"mm_encoder_outputs (transformers >= 5.18, < 6); {type(self.model).__name__} is "
                "not one, pass the whole model"
            )
        for path in (self.vision_layers, self.projector):
            try:
                self.model.get_submodule(path)
            except AttributeError as error:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__} has no module {path!r}; this transformers "
                    "version lays the model out differently, use >= 5.18, < 6"
                ) from error


def pixel_fingerprints(pixels: Tensor) -> Tensor:
    """A number for each image that depends on its pixels alone, `[I, ...]` to `[I]` int64."""
    rows = pixels.detach().cpu().contiguous().view(torch.uint8).flatten(1)
    return torch.tensor([zlib.crc32(row.numpy().tobytes()) for row in rows])
