"""Any other model that takes encoder outputs: pruned by its features alone.

For transformers classes whose forward accepts `mm_encoder_outputs` and that no other file here
covers. Nothing is known of their encoder, so there is no attention, and encoder rows are the
projected features themselves: methods by norm, diversity or similarity and the controls work, the
others are refused. Each entry of the encoder output (an image, or a tile that text sets apart) is
one image without a grid; DeepStack features lose the same rows. Positions are those that
the model's own `generate` would prepare. A model that takes more than these from its encoder is
refused.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.adapters.base import Adapter, check_forward, pixel_fingerprint
from lvlm_prune.adapters.encoded import Grouping, ImageGroup, whole
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.readings import AttentionReader
from lvlm_prune.signals import Signals, row_norms

# Fields of an encoder output that a shortened one carries.
CARRIED = frozenset({"pooler_output", "deepstack_features"})
# Position rows of M-RoPE: a plain count, then time, height and width.
MROPE_ROWS = 4


def other_fields(source: str) -> list[str]:
    """Fields of the images' encoder output that a forward reads and that pruning does not carry.

    Args:
        source: source text of the forward.
    """
    output = r"""mm_encoder_outputs\[["']image["']\]\."""
    read = set(re.findall(output + r"(\w+)", source)) - CARRIED
    if re.search(rf"enumerate\({output}deepstack_features", source):
        read.add("deepstack_features by layer number")
    return sorted(read)


# Arguments of an encoder whose effect on its features is not known here (VideoLLaMA 3's videos).
UNREAD = {"video_compression_mask"}


class GenericAdapter(Adapter):
    """A model of no family of its own."""

    model_types = ()
    covers = "any other class that takes encoder outputs, by features only"
    vision_layers = attention = projector = ""
    pixels = {"image": "pixel_values", "video": "pixel_values_videos"}

    def _check_capabilities(self) -> None:
        """The model must encode pixels apart from its forward, and have placeholders for them."""
        check_forward(self.model)
        name = type(self.model).__name__
        if self.model.config.is_encoder_decoder:
            raise UnsupportedModelError(
                f"{name} is an encoder-decoder model; pruning works on decoder-only models"
            )
        self.pixels = {
            modality: pixels
            for modality, pixels in type(self).pixels.items()
            if self._encodes(modality, pixels)
        }
        if "image" not in self.pixels:
            raise UnsupportedModelError(
                f"{name} has no get_image_features(pixel_values) with placeholder tokens "
                "(config.image_token_id), which pruning rests on"
            )
        other = other_fields(_source(type(self.model.base_model).forward))
        if other:
            raise UnsupportedModelError(
                f"{name} reads {', '.join(other)} of its encoder's output; pruning shortens "
                "pooler_output and deepstack_features only"
            )

    def _encodes(self, modality: str, pixels: str) -> bool:
        """Whether the model encodes a modality from these pixels."""
        features_of = getattr(self.model.base_model, f"get_{modality}_features", None)
        if features_of is None or getattr(self.model.config, f"{modality}_token_id", None) is None:
            return False
        names = inspect.signature(features_of).parameters
        if UNREAD & {*names}:
            return False
        # VideoLLaVA takes pixels of images under two names, so one would go by unseen.
        return pixels in names and f"pixel_values_{modality}s" not in {*names} - {pixels}

    def _check_variant(self) -> None:
        """Rotary positions must be a count of tokens, or rows of M-RoPE."""
        rope = getattr(self.model.config.get_text_config(), "rope_parameters", None) or {}
        section = rope.get("mrope_section")
        if section is not None and len(section) != MROPE_ROWS - 1:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has rotary positions in {len(section)} parts "
                f"(mrope_section={section}); pruning knows {MROPE_ROWS - 1}"
            )
        self.counts_positions = section is None

    def _encoder_shape(self) -> EncoderShape:
        """An encoder of which no layer can be read."""
        return EncoderShape(depth=0, feature_layer=-1, has_cls=False, per_token=False)

    def project(self, hidden: Tensor) -> Tensor:
        """Merged rows are features already."""
        return hidden

    def _groups(
        self,
        outputs: Any,
        arguments: Mapping[str, Any],
        modality: str,
        reader: AttentionReader,
        sink_threshold: float | None,
    ) -> list[ImageGroup]:
        """One image for each entry of the encoder output."""
        pixels = arguments[self.pixels[modality]]
        entries = self._entries(outputs, arguments.get("input_ids"), pixels, modality)
        layers, pictures = self._deepstack(outputs, entries), _pictures(pixels)
        grouping = Grouping()
        for image, features in enumerate(entries):
            n, mark = len(features), None
            if reader.request.fingerprint:
                # Which pixels are whose is not known unless there is one entry an image.
                own = pictures[image] if len(pictures) == len(entries) else features.float()
                mark = pixel_fingerprint(own).to(features.device)
            signals = Signals(
                features=features[None],
                hidden=features[None],
                grid=(1, n),
                norms=row_norms(features)[None],
                fingerprint=mark,
            )
            parts = whole((1, n), features.device)
            deepstack = tuple(layer[image][None] for layer in layers)
            grouping.add(n, ImageGroup([image], signals, parts, deepstack=deepstack))
        return grouping.groups()

    def _entries(
        self, outputs: Any, ids: Tensor | None, pixels: Tensor, modality: str
    ) -> list[Tensor]:
        """Features of each image or tile, `[N, D]`.

        Models that take images as `[B, images, ...]` give one entry a prompt, which is empty for a
        prompt without images; it is cut where text stands between the images.
        """
        entries = [entry for entry in outputs.pooler_output if len(entry)]
        if ids is not None and entries and not bool((ids == self.token_id(modality)).any()):
            raise UnsupportedModelError(
                f"the prompt has no {modality} placeholder (id {self.token_id(modality)}); "
                f"{type(self.model).__name__} marks its {modality}s in another way, so they cannot "
                "be pruned; pass them unpruned, or frames as images"
            )
        if any(entry.dim() != 2 for entry in entries):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} gives features of shape "
                f"{[tuple(entry.shape) for entry in entries]}; pruning needs [N, D] for each image"
            )
        totals = [len(entry) for entry in entries]
        if pixels.dim() < 5 or ids is None or modality != "image":
            return entries
        runs = _runs(ids == self.token_id(modality))
        ends = set(torch.tensor(runs).cumsum(0).tolist())
        if not ends.issuperset(torch.tensor(totals).cumsum(0).tolist()):
            return entries
        return list(torch.cat(entries).split(runs))

    def _deepstack(self, outputs: Any, entries: list[Tensor]) -> list[list[Tensor]]:
        """Features for the LLM's first layers, one entry an image in each; often none."""
        layers = [list(layer) for layer in getattr(outputs, "deepstack_features", None) or []]
        wanted = [len(entry) for entry in entries]
        for layer in layers:
            if [len(rows) if isinstance(rows, Tensor) else None for rows in layer] != wanted:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__} gives DeepStack features that are not one "
                    "[N, D] for each image; use a model of a family, see `lvlm-prune models`"
                )
        return layers

    def positions(
        self, arguments: Mapping[str, Any], ids: Tensor, mask: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """What the model's own `generate` prepares, where it is more than a count."""
        new = mask[:, -ids.shape[1] :]
        settings = {
            name: value
            for name, value in arguments.items()
            if name not in ("past_key_values", "inputs_embeds", "position_ids")
            and value is not None
        }
        types = arguments.get("mm_token_type_ids")
        if types is not None:
            settings["mm_token_type_ids"] = types[:, -ids.shape[1] :]
        settings |= {"input_ids": ids, "attention_mask": new}
        places = self.model._prepare_position_ids_for_generation(ids, settings)
        if places.dim() == 2:
            return None
        start = mask[:, : mask.shape[1] - ids.shape[1]].sum(-1) + delta
        rotary = places[1:] if len(places) == MROPE_ROWS else places
        following = (rotary * new).amax(dim=(0, 2)) + 1 - new.sum(-1)
        return (places + start[:, None]).masked_fill(new == 0, 0), delta + following


def _runs(marks: Tensor) -> list[int]:
    """Lengths of the unbroken runs of True in the rows of `[B, L]`."""
    edges = torch.nn.functional.pad(marks.int(), (1, 1)).flatten().diff().nonzero()[:, 0]
    return edges.view(-1, 2).diff(dim=1)[:, 0].tolist()


def _pictures(pixels: Tensor) -> list[Tensor]:
    """Pixels of each image; images that only fill up a prompt's row are blank."""
    if pixels.dim() < 5:
        return list(pixels)
    return [picture for picture in pixels.flatten(0, 1) if picture.any()]


def _source(function: Callable[..., Any]) -> str:
    """Source text of a function, empty where none is at hand."""
    try:
        return inspect.getsource(inspect.unwrap(function))
    except OSError:
        return ""
