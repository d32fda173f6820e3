"""Adapter: what a family must say so that its visual tokens can be pruned.

A family declares where its modules are, as dotted paths that are checked at attach, and how its
encoder's signals become one row a visual token. Encoding itself is the call that the model's own
`generate` makes (`base_model.get_image_features`), with taps on the attention modules that a method
asked for. In: the keyword arguments of the model's forward. Out: `Encoded`.
"""

import inspect
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lvlm_prune.adapters.encoded import Encoded, ImageGroup
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.progressive import EncoderBudget, ProgressiveReader, TileSize
from lvlm_prune.readings import AttentionReader
from lvlm_prune.signals import SignalRequest
from lvlm_prune.tap import install_tap, recording, remove_tap

# Names that models of transformers take pixels by.
PIXELS = ("pixel_values", "pixel_values_images", "pixel_values_videos")
Shrink = Callable[[tuple[int, int]], tuple[int, int]]


class Adapter(ABC):
    """A family's declaration, bound to one model. Subclasses fill in the class variables."""

    model_types: ClassVar[tuple[str, ...]]
    covers: ClassVar[str]  # the models, for messages and `lvlm-prune models`
    vision_layers: ClassVar[str]  # path from the top model to the encoder's layers
    attention: ClassVar[str]  # attention module inside a layer
    projector: ClassVar[str]  # path to the projector
    pixels: Mapping[str, str] = {"image": "pixel_values"}  # by modality
    tiles: ClassVar[bool] = False  # whether an image may be cut into tiles
    newlines: ClassVar[bool] = False  # whether newline tokens may stand between rows of an image
    fixed: ClassVar[tuple[str, ...]] = ()  # settings of a call that must be the config's
    resizes: ClassVar[bool] = False  # whether images can be encoded at another grid
    counts_positions: bool = True  # whether rotary positions are a plain count

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
    def _groups(
        self,
        outputs: Any,
        arguments: Mapping[str, Any],
        modality: str,
        reader: AttentionReader,
        sink_threshold: float | None,
    ) -> list[ImageGroup]:
        """Turn one encoder output into groups of images.

        Args:
            outputs: what `get_image_features` or `get_video_features` returned.
            arguments: what it was called with, and the prompt's `input_ids` if there are any.
            modality: `image` or `video`.
            reader: what the tapped layers showed.
            sink_threshold: norm of ViT sinks, for the attention that they give.
        """

    @abstractmethod
    def project(self, hidden: Tensor) -> Tensor:
        """Project encoder rows of visual tokens, `[n, d]` to `[n, D]`."""

    @property
    def recurrent(self) -> bool:
        """Whether the LLM has layers that carry a state from token to token."""
        layers = getattr(self.model.config.get_text_config(), "layer_types", None) or ()
        return any("attention" not in layer or "linear" in layer for layer in layers)

    @property
    def flash(self) -> bool:
        """Whether the LLM attends by a flash kernel."""
        text = self.model.config.get_text_config()
        return "flash" in (getattr(text, "_attn_implementation", None) or "")

    def grid(self) -> tuple[int, int] | None:
        """Grid (h, w) of every image's visual tokens, or None where it depends on the image."""
        return None

    def resized(
        self, arguments: dict[str, Any], modality: str, shrink: Shrink
    ) -> tuple[dict[str, Any], list[tuple[int, int]]]:
        """The same call with smaller images, and the full token grid of each."""
        raise NotImplementedError

    def encode(
        self,
        inputs: Mapping[str, Any],
        request: SignalRequest,
        modality: str = "image",
        shrink: Shrink | None = None,
        sink_threshold: float | None = None,
        budget: EncoderBudget | None = None,
    ) -> Encoded:
        """Encode the images, or the videos, of a call and read the signals that were asked for.

        Args:
            inputs: keyword arguments of the model's forward, with the pixels.
            request: the signals a method needs.
            modality: `image` or `video`.
            shrink: encode the images at the grid that it gives for their full one.
            sink_threshold: norm of ViT sinks, for the attention that they give.
            budget: what is dropped inside the encoder, for methods that do so.
        """
        arguments = self.encoder_arguments(inputs, modality)
        full = None
        if shrink is not None:
            arguments, full = self.resized(arguments, modality, shrink)
        reader = AttentionReader(request, self.shape.has_cls)
        if budget is not None:
            sizes = self.tile_sizes({**inputs, **arguments}, modality)
            keep = budget.units_to_keep(sizes)
            reader = ProgressiveReader(request, self.shape, budget.step, keep, self.unit_of)
        features_of = getattr(self.model.base_model, f"get_{modality}_features")
        with recording(reader.recorders(self.attention_modules(request))):
            outputs = features_of(**arguments, return_dict=True)
        arguments["input_ids"] = inputs.get("input_ids")
        groups = self._groups(outputs, arguments, modality, reader, sink_threshold)
        encoded = Encoded(groups, type(outputs), isinstance(outputs.pooler_output, Tensor))
        return encoded if full is None else _with_prompt_grids(encoded, full)

    def tile_sizes(self, arguments: Mapping[str, Any], modality: str) -> list[list[TileSize]]:
        """The tiles (or frames) of each image, for methods that drop inside the encoder."""
        raise NotImplementedError

    def unit_of(self, patches: int) -> Tensor:
        """Unit of each patch of a sequence that is dropped as a whole, `[P]`."""
        return torch.arange(patches)

    def modalities(self, inputs: Mapping[str, Any]) -> list[str]:
        """Which modalities a call brings pixels of.

        Raises:
            ValueError: the call brings pixels of another kind, which would go by unpruned.
        """
        given = [name for name in PIXELS if inputs.get(name) is not None]
        for name in given:
            if name not in self.pixels.values():
                raise ValueError(
                    f"{name} of {type(self.model).__name__} cannot be pruned, only "
                    f"{', '.join(self.pixels.values())}; detach() for such calls"
                )
        return [name for name, pixels in self.pixels.items() if pixels in given]

    def token_id(self, modality: str) -> int:
        """Id of the placeholder token of images or videos."""
        return getattr(self.model.config, f"{modality}_token_id")

    def attention_modules(self, request: SignalRequest) -> dict[int, nn.Module]:
        """The attention modules of the layers a request names."""
        if not request.layers:
            return {}
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

    def encoder_arguments(self, inputs: Mapping[str, Any], modality: str) -> dict[str, Any]:
        """The arguments that the model's `generate` would pass to `get_image_features`.

        Raises:
            ValueError: one is missing, or is not what pruning was set up for.
        """
        features_of = getattr(self.model.base_model, f"get_{modality}_features")
        arguments = {}
        for name, parameter in inspect.signature(features_of).parameters.items():
            if parameter.kind == parameter.VAR_KEYWORD:
                continue
            if inputs.get(name) is not None:
                arguments[name] = inputs[name]
            elif parameter.default is parameter.empty:
                raise ValueError(
                    f"{name} is missing beside {self.pixels[modality]}; pass everything that the "
                    "model's processor made"
                )
        for name in self.fixed:
            configured = getattr(self.model.config, name)
            if arguments.get(name, configured) != configured:
                raise ValueError(
                    f"{name}={arguments[name]!r} differs from the model's {configured!r}, which "
                    "pruning was set up for; change it in model.config before attach"
                )
        return arguments

    def positions(
        self, arguments: Mapping[str, Any], ids: Tensor, mask: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Rotary positions of new columns where they are more than a count of tokens.

        Args:
            arguments: the call.
            ids: new columns, `[B, L]`.
            mask: mask of the conversation, `[B, past + L]`.
            delta: next position less the number of real tokens so far, `[B]`.

        Returns:
            Positions `[.., B, L]` and the delta after them `[B]`, or None for a plain count.
        """
        return None

    def past_delta(self) -> Tensor | None:
        """The delta that the model remembers of its last call, `[B]`; None if it counts tokens."""
        delta = getattr(self.model.base_model, "rope_deltas", None)
        return None if delta is None else delta.view(-1)

    def _check_capabilities(self) -> None:
        """Check once that transformers and the model have what pruning rests on."""
        check_forward(self.model)
        for path in (self.vision_layers, self.projector):
            try:
                self.model.get_submodule(path)
            except AttributeError as error:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__} has no module {path!r}; this transformers "
                    "version lays the model out differently, use >= 5.18, < 6"
                ) from error


def check_forward(model: nn.Module) -> None:
    """Refuse what is not a whole model that takes encoder outputs."""
    forward = inspect.signature(type(model).forward).parameters
    # A model without its language-modelling head has no generate.
    whole = "labels" in forward and hasattr(model, "generate")
    if "mm_encoder_outputs" not in forward or not whole:
        raise UnsupportedModelError(
            f"pruning needs a model with a language-modelling head whose forward accepts "
            f"mm_encoder_outputs (transformers >= 5.18, < 6); {type(model).__name__} is "
            "not one, pass the whole model"
        )


def pixel_fingerprint(pixels: Tensor) -> Tensor:
    """A number that depends on the pixels of one image alone, `[1]` int64."""
    values = pixels.detach().cpu().contiguous().view(torch.uint8)
    return torch.tensor([zlib.crc32(values.numpy().tobytes())])


def _with_prompt_grids(encoded: Encoded, full: list[tuple[int, int]]) -> Encoded:
    """Note the grids that the prompt has placeholders for; images of one group may differ there."""
    groups = []
    for group in encoded.groups:
        for grid in sorted({full[image] for image in group.images}):
            index = [i for i, image in enumerate(group.images) if full[image] == grid]
            signals = replace(group.signals.images(index), prompt_grid=grid)
            images = [group.images[i] for i in index]
            layers = tuple(layer[index] for layer in group.deepstack)
            groups.append(ImageGroup(images, signals, group.parts, deepstack=layers))
    return replace(encoded, groups=groups)
