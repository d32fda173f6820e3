"""InternVL: tiles of a ViT with a CLS token, 2x2 patches shuffled into one visual token.

Written for transformers' `InternVLForConditionalGeneration` (InternVL 2.5, 3, 3.5 in the Hugging
Face layout). A tile has 16 x 16 = 256 tokens at 448 pixels. The tiles of an image, and its
thumbnail behind them, are one unbroken run of placeholders, which is how they are found; frames of
a video come as images. Token (i, j) is made of patches (2i + a, 2j + b), so attention, norms and
keys are means over them, and an encoder row is the four rows side by side; the CLS row cannot be
projected, which takes four.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.adapters.base import Adapter, pixel_fingerprint
from lvlm_prune.adapters.encoded import Grouping, ImageGroup, frames, map_tokens
from lvlm_prune.errors import PlaceholderMismatchError, UnsupportedModelError
from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.progressive import TileSize
from lvlm_prune.readings import AttentionReader
from lvlm_prune.signals import Signals, row_norms


class InternVLAdapter(Adapter):
    """InternVL in the Hugging Face layout."""

    model_types = ("internvl",)
    covers = "InternVL 2.5, 3 and 3.5, tiles"
    tiles = True
    vision_layers = "model.vision_tower.encoder.layer"
    attention = "attention"
    projector = "model.multi_modal_projector"
    fixed = ("vision_feature_layer", "vision_feature_select_strategy")

    def _check_variant(self) -> None:
        """Patches of one layer must become tokens by a pixel shuffle."""
        config = self.model.config
        if config.vision_feature_select_strategy != "default":
            raise UnsupportedModelError(
                f"vision_feature_select_strategy={config.vision_feature_select_strategy!r} makes "
                "the CLS token a visual token; supported: 'default'"
            )
        if not isinstance(config.vision_feature_layer, int):
            raise UnsupportedModelError(
                f"vision_feature_layer={config.vision_feature_layer!r} is not supported by "
                "InternVL itself; pass one index"
            )

    def _encoder_shape(self) -> EncoderShape:
        """The layer whose output is shuffled."""
        config = self.model.config
        depth = config.vision_config.num_hidden_layers
        layer = config.vision_feature_layer % (depth + 1) - 1
        return EncoderShape(depth, layer, has_cls=True, per_token=False)

    def project(self, hidden: Tensor) -> Tensor:
        """Project shuffled encoder rows, `[n, 4 d]` to `[n, D]`."""
        return self.model.get_submodule(self.projector)(hidden)

    def _shuffled(self, patches: Tensor) -> Tensor:
        """Group patches as the model does, `[t, P, C]` to `[t, N, 4, C]`."""
        tiles, count, channels = patches.shape
        side, ratio = int(count**0.5), self.model.config.downsample_ratio
        square = patches.reshape(tiles, side, side, channels).contiguous()
        grouped = self.model.base_model.pixel_shuffle(square, scale_factor=ratio)
        return grouped.reshape(tiles, -1, round(ratio**-2), channels)

    def _pooled(self, values: Tensor, axis: int) -> Tensor:
        """Mean over the patches of each token along an axis."""
        values = values.movedim(axis, 1)
        grouped = self._shuffled(values.reshape(*values.shape[:2], -1))
        means = grouped.mean(dim=2).reshape(*grouped.shape[:2], *values.shape[2:])
        return means.movedim(1, axis)

    def unit_of(self, patches: int) -> Tensor:
        """Visual token of each patch, `[P]`."""
        numbers = torch.arange(patches, dtype=torch.float32)[None, :, None]
        grouped = self._shuffled(numbers)[0, :, :, 0].long()
        tokens = torch.arange(len(grouped)).unsqueeze(1).expand_as(grouped)
        return torch.empty(patches, dtype=torch.int64).scatter(
            0, grouped.flatten(), tokens.flatten()
        )

    def tile_sizes(self, arguments: Mapping[str, Any], modality: str) -> list[list[TileSize]]:
        """See `Adapter.tile_sizes`."""
        config = self.model.config
        height, width = config.vision_config.image_size
        patch = config.vision_config.patch_size
        n = round((height // patch[0]) * (width // patch[1]) * config.downsample_ratio**2)
        tiles = len(arguments["pixel_values"])
        return [[TileSize(n, n)] * count for count in self._tile_counts(arguments, n, tiles)]

    def _tile_signals(
        self, outputs: Any, reader: AttentionReader, threshold: float | None
    ) -> Signals:
        """Signals of all tiles of a call."""
        layer = self.model.config.vision_feature_layer
        hidden = outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]
        patches = hidden[:, 1:]
        norms = row_norms(patches)
        axes = {"cls": 3, "received": 2, "joint": 1, "keys": 2, "sinks_given": 2, "progress": 1}
        read = reader.signals(norms, threshold)
        features = outputs.pooler_output
        side = int(features.shape[1] ** 0.5)
        return Signals(
            features=features,
            hidden=self._shuffled(patches).flatten(2),
            grid=(side, side),
            norms=self._pooled(norms, 1),
            **{name: self._pooled(value, axes[name]) for name, value in read.items()},  # type: ignore[arg-type]
        )

    def _groups(
        self,
        outputs: Any,
        arguments: Mapping[str, Any],
        modality: str,
        reader: AttentionReader,
        sink_threshold: float | None,
    ) -> list[ImageGroup]:
        """Join the tiles of each image; images of as many tiles share a group."""
        tiles = self._tile_signals(outputs, reader, sink_threshold)
        n = tiles.features.shape[1]
        grouping, start = Grouping(), 0
        for image, count in enumerate(self._tile_counts(arguments, n, len(tiles.features))):
            mine = tiles.images(list(range(start, start + count)))
            signals = map_tokens(mine, lambda values: values.flatten(0, 1))
            if count == 1:
                signals = replace(signals, grid=tiles.grid)
            if reader.request.fingerprint:
                pixels = arguments["pixel_values"][start : start + count]
                signals = replace(signals, fingerprint=pixel_fingerprint(pixels))
            parts = frames(count, tiles.grid, signals.features.device)
            grouping.add(count, ImageGroup([image], signals, parts, parts))
            start += count
        return grouping.groups()

    def _tile_counts(self, arguments: Mapping[str, Any], n: int, tiles: int) -> list[int]:
        """Tiles of each image, from the lengths of the runs of placeholders.

        Args:
            arguments: the call; without `input_ids` every tile is an image.
            n: tokens of a tile.
            tiles: tiles of the call.
        """
        ids = arguments.get("input_ids")
        if ids is None:
            return [1] * tiles
        marks = torch.nn.functional.pad((ids == self.token_id("image")).int(), (1, 1)).flatten()
        edges = marks.diff().nonzero()[:, 0].view(-1, 2)
        runs = (edges[:, 1] - edges[:, 0]).tolist()
        if sum(runs) != tiles * n or any(run % n for run in runs):
            raise PlaceholderMismatchError(
                f"the prompt has runs of {runs} placeholder tokens but {tiles} tiles of {n} visual "
                "tokens; make both with the model's own processor"
            )
        return [run // n for run in runs]
