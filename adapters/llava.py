"""LLaVA-1.5: a CLIP or SigLIP encoder, a two-layer projector, one visual token a patch.

Written for transformers' `LlavaForConditionalGeneration`. Visual token i is patch i in raster
order, so a signal of the encoder is a signal of the prompt once the CLS column is gone. An image
has (image_size / patch_size)^2 tokens: 576 for llava-1.5, 24 x 24. SigLIP has no CLS token.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lvlm_prune.adapters.base import Adapter, Shrink, pixel_fingerprint
from lvlm_prune.adapters.encoded import ImageGroup, whole
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.progressive import TileSize
from lvlm_prune.readings import AttentionReader
from lvlm_prune.signals import Signals, row_norms


class LlavaAdapter(Adapter):
    """LLaVA-1.5 in the Hugging Face layout."""

    model_types = ("llava",)
    covers = "LLaVA-1.5"
    vision_layers = "model.vision_tower.encoder.layers"
    attention = "self_attn"
    projector = "model.multi_modal_projector"
    fixed: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")
    resizes = True
    # Encoders by their config's model type, and whether they have a CLS token.
    encoders = {"clip_vision_model": True, "siglip_vision_model": False}

    def _check_capabilities(self) -> None:
        """Name the encoder first: another one has its layers elsewhere."""
        vision = self.model.config.vision_config.model_type
        if vision not in self.encoders:
            raise UnsupportedModelError(
                f"LLaVA with a {vision!r} encoder is not supported; supported: "
                f"{', '.join(self.encoders)}"
            )
        super()._check_capabilities()

    def _check_variant(self) -> None:
        """Only patches may be visual tokens."""
        strategy = self.model.config.vision_feature_select_strategy
        if self.encoders[self.model.config.vision_config.model_type]:
            if strategy != "default":
                raise UnsupportedModelError(
                    f"vision_feature_select_strategy={strategy!r} makes the CLS token a visual "
                    "token, which no method here was written for; supported: 'default'"
                )
        elif strategy != "full":
            raise UnsupportedModelError(
                f"vision_feature_select_strategy={strategy!r} cuts off the first patch of an "
                "encoder without CLS token; supported: 'full'"
            )

    def _encoder_shape(self) -> EncoderShape:
        """The layer whose output is `hidden_states[vision_feature_layer]`."""
        vision = self.model.config.vision_config
        depth = vision.num_hidden_layers
        # The deepest one, where the rows of several layers are concatenated.
        # hidden_states[0] is the input of layer 0, so hidden_states[k] leaves layer k - 1.
        layer = max(index % (depth + 1) for index in self._feature_layers()) - 1
        return EncoderShape(depth, layer, has_cls=self.encoders[vision.model_type])

    def _feature_layers(self) -> list[int]:
        """Indices into hidden_states whose rows are projected."""
        layers = self.model.config.vision_feature_layer
        return [layers] if isinstance(layers, int) else list(layers)

    def grid(self) -> tuple[int, int] | None:
        """Patches of the encoder's square image."""
        return self._tile_grid()

    def _tile_grid(self) -> tuple[int, int]:
        """Patches of a tile."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    def tile_sizes(self, arguments: Mapping[str, Any], modality: str) -> list[list[TileSize]]:
        """See `Adapter.tile_sizes`."""
        h, w = self._tile_grid()
        return [[TileSize(h * w, h * w)]] * len(arguments["pixel_values"])

    def project(self, hidden: Tensor) -> Tensor:
        """Project encoder rows, `[n, d]` to `[n, D]`."""
        return self.model.get_submodule(self.projector)(hidden)

    def resized(
        self, arguments: dict[str, Any], modality: str, shrink: Shrink
    ) -> tuple[dict[str, Any], list[tuple[int, int]]]:
        """See `Adapter.resized`; the encoder interpolates its position embeddings."""
        full, pixels = self._tile_grid(), arguments["pixel_values"]
        grid = shrink(full)
        if grid != full:
            patch = self.model.config.vision_config.patch_size
            size = (grid[0] * patch, grid[1] * patch)
            small = interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
            arguments["pixel_values"] = small.to(pixels.dtype)
            arguments["interpolate_pos_encoding"] = True
        return arguments, [full] * len(pixels)

    def _tile_signals(
        self,
        outputs: Any,
        reader: AttentionReader,
        threshold: float | None,
        grid: tuple[int, int],
        features: Tensor | None = None,
    ) -> Signals:
        """Signals of all tiles of a call; without `features`, encoder rows stand in for them."""
        hidden = torch.cat([outputs.hidden_states[i] for i in self._feature_layers()], dim=-1)
        first = int(self.shape.has_cls)
        rows = hidden[:, first:]
        norms = row_norms(rows)
        return Signals(
            features=rows if features is None else features,
            hidden=rows,
            grid=grid,
            norms=norms,
            cls_hidden=hidden[:, 0] if first else None,
            **reader.signals(norms, threshold),  # type: ignore[arg-type]
        )

    def _groups(
        self,
        outputs: Any,
        arguments: Mapping[str, Any],
        modality: str,
        reader: AttentionReader,
        sink_threshold: float | None,
    ) -> list[ImageGroup]:
        """One group: all images have the same size."""
        pixels = arguments["pixel_values"]
        patch = self.model.config.vision_config.patch_size
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        features = torch.stack(list(outputs.pooler_output))
        signals = self._tile_signals(outputs, reader, sink_threshold, grid, features)
        if reader.request.fingerprint:
            marks = torch.cat([pixel_fingerprint(image) for image in pixels])
            signals = replace(signals, fingerprint=marks)
        return [ImageGroup(list(range(len(pixels))), signals, whole(grid, features.device))]
