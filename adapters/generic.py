"""Any other model that takes encoder outputs: pruned by its features alone.

For transformers classes whose forward accepts `mm_encoder_outputs` and that no other file here
covers. Nothing is known of their encoder, so there is no attention, and encoder rows are the
projected features themselves: methods by norm, diversity or similarity and the controls work, the
others are refused. Each entry of the encoder output (an image, or a tile) is one image without a
grid. Positions are those that the model's own `generate` would prepare.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from lvlm_prune.adapters.base import Adapter, check_forward, pixel_fingerprint
from lvlm_prune.adapters.encoded import Grouping, ImageGroup, whole
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.readings import AttentionReader
from lvlm_prune.signals import Signals, row_norms


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

    def _encodes(self, modality: str, pixels: str) -> bool:
        """Whether the model encodes a modality from these pixels."""
        features_of = getattr(self.model.base_model, f"get_{modality}_features", None)
        if features_of is None or getattr(self.model.config, f"{modality}_token_id", None) is None:
            return False
        return pixels in inspect.signature(features_of).parameters

    def _check_variant(self) -> None:
        """Every variant is taken as it is."""

    def _encoder_shape(self) -> EncoderShape:
        """An encoder of which no layer can be read."""
        return EncoderShape(depth=0, feature_layer=-1, has_cls=False, per_token=False)

    def project(self, hidden: Tensor) -> Tensor:
        """Merged rows are features already."""
        return hidden

    def _groups(
        self,
        outputs: ModelOutput,
        arguments: Mapping[str, Any],
        modality: str,
        reader: AttentionReader,
        sink_threshold: float | None,
    ) -> list[ImageGroup]:
        """One image for each entry of the encoder output."""
        entries, pixels = list(outputs.pooler_output), arguments[self.pixels[modality]]
        if any(entry.dim() != 2 for entry in entries):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} gives features of shape "
                f"{[tuple(entry.shape) for entry in entries]}; pruning needs [N, D] for each image"
            )
        grouping = Grouping()
        for image, features in enumerate(entries):
            n, mark = len(features), None
            if reader.request.fingerprint:
                # Which pixels are whose is not known unless there is one entry an image.
                own = pixels[image] if len(pixels) == len(entries) else features.float()
                mark = pixel_fingerprint(own).to(features.device)
            signals = Signals(
                features=features[None],
                hidden=features[None],
                grid=(1, n),
                norms=row_norms(features)[None],
                fingerprint=mark,
            )
            grouping.add(n, ImageGroup([image], signals, whole((1, n), features.device)))
        return grouping.groups()

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
        following = (places[1:] * new).amax(dim=(0, 2)) + 1 - new.sum(-1)
        return (places + start[:, None]).masked_fill(new == 0, 0), delta + following
