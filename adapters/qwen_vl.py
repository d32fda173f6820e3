"""Qwen-VL: images of any size, 2x2 patches merged into one visual token, M-RoPE, videos.

Written for transformers' Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5 classes, MoE included. In
Qwen3.5 most layers of the LLM are recurrent, so a pruned prompt is the shorter prompt itself, not
the long one with tokens masked. The encoder has
no CLS token and packs all images of a call into one sequence, each image (each frame of a video)
attending to itself. Token t is made of patches 4t..4t+3, so attention, norms and keys are means
over them, and an encoder row is the four rows side by side. Qwen2.5-VL's encoder runs in window
order, and most of its layers attend inside windows: only the others rank tokens globally. Qwen3-VL
adds features to the LLM's first layers (DeepStack); they lose the same rows.

Rotary positions are time, height and width of a token (M-RoPE), computed by the model's own
`get_rope_index` on the unpruned prompt and kept.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lvlm_prune.adapters.base import Adapter, Shrink, pixel_fingerprint
from lvlm_prune.adapters.encoded import Grouping, ImageGroup, frames
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.progressive import TileSize
from lvlm_prune.readings import AttentionReader
from lvlm_prune.signals import Signals, row_norms
from lvlm_prune.splice import image_columns, positions_of

AXES = {"received": 2, "keys": 2, "sinks_given": 2, "progress": 1}


class QwenVLAdapter(Adapter):
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL in the Hugging Face layout."""

    model_types = (
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_5",
        "qwen3_5_moe",
    )
    covers = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5 and MoE, images and videos"
    vision_layers = "model.visual.blocks"
    attention = "attn"
    projector = "model.visual.merger"
    pixels = {"image": "pixel_values", "video": "pixel_values_videos"}
    resizes = True
    counts_positions = False

    def _check_variant(self) -> None:
        """A window layer alone cannot rank the tokens of an image."""
        shape = self._encoder_shape()
        if len(shape.windowed) == shape.depth:
            raise UnsupportedModelError(
                "this encoder has no layer with full attention (fullatt_block_indexes is empty)"
            )

    def _encoder_shape(self) -> EncoderShape:
        """The last layer is merged."""
        vision = self.model.config.vision_config
        full = getattr(vision, "fullatt_block_indexes", range(vision.depth))
        windowed = tuple(layer for layer in range(vision.depth) if layer not in full)
        return EncoderShape(
            vision.depth, vision.depth - 1, has_cls=False, windowed=windowed, per_token=False
        )

    @property
    def _merge(self) -> int:
        """Patches along a side of a visual token."""
        return self.model.config.vision_config.spatial_merge_size

    def project(self, hidden: Tensor) -> Tensor:
        """Merge encoder rows of visual tokens, `[n, 4 d]` to `[n, D]`."""
        patches = hidden.unflatten(1, (self._merge**2, -1)).flatten(0, 1)
        return self.model.get_submodule(self.projector)(patches)

    def _groups(
        self,
        outputs: Any,
        arguments: Mapping[str, Any],
        modality: str,
        reader: AttentionReader,
        sink_threshold: float | None,
    ) -> list[ImageGroup]:
        """Cut the packed sequence into images; equal sizes share a group."""
        grids = arguments[f"{modality}_grid_thw"]
        patches = outputs.last_hidden_state
        norms = row_norms(patches)[None]
        unit = self._merge**2
        order = self._raster_order(grids)
        hidden = patches.view(-1, unit * patches.shape[-1])[order]
        pooled = {"norms": norms.view(1, -1, unit).mean(-1)[:, order]}
        for name, value in reader.signals(norms, sink_threshold).items():
            axis = AXES[name]
            means = value.unflatten(axis, (-1, unit)).mean(axis + 1)
            pooled[name] = means.index_select(axis, order)
        deepstack = getattr(outputs, "deepstack_features", None) or []
        grouping, start, first = Grouping(), 0, 0
        for image, (features, thw) in enumerate(
            zip(outputs.pooler_output, grids.tolist(), strict=True)
        ):
            n = len(features)
            grid = (thw[1] // self._merge, thw[2] // self._merge)
            mine = {
                name: value.narrow(AXES.get(name, 1), start, n) for name, value in pooled.items()
            }
            if reader.request.fingerprint:
                pixels = arguments[self.pixels[modality]]
                mine["fingerprint"] = pixel_fingerprint(pixels[first : first + n * unit])
            signals = Signals(
                features=features[None],
                hidden=hidden[None, start : start + n],
                grid=grid if thw[0] == 1 else (1, n),
                **mine,  # type: ignore[arg-type]
            )
            parts = frames(thw[0], grid, features.device)
            layers = tuple(layer[image][None] for layer in deepstack)
            grouping.add(tuple(thw), ImageGroup([image], signals, parts, parts, deepstack=layers))
            start, first = start + n, first + n * unit
        return grouping.groups()

    def unit_of(self, patches: int) -> Tensor:
        """Visual token of each patch, `[P]`."""
        return torch.arange(patches) // self._merge**2

    def tile_sizes(self, arguments: Mapping[str, Any], modality: str) -> list[list[TileSize]]:
        """See `Adapter.tile_sizes`: the frames of each image or video."""
        return [
            [TileSize(h * w // self._merge**2, h * w // self._merge**2)] * t
            for t, h, w in arguments[f"{modality}_grid_thw"].tolist()
        ]

    def _raster_order(self, grids: Tensor) -> Tensor:
        """Place of each raster-ordered token in the encoder's sequence, `[sum n]`."""
        vision = self.model.config.vision_config
        if not hasattr(vision, "window_size"):
            return torch.arange(int(grids.prod(-1).sum()) // self._merge**2, device=grids.device)
        from transformers.vision_utils import get_vision_window_index

        index, _ = get_vision_window_index(
            grids, self._merge, window_size=vision.window_size, patch_size=vision.patch_size
        )
        return index.argsort().to(grids.device)

    def resized(
        self, arguments: dict[str, Any], modality: str, shrink: Shrink
    ) -> tuple[dict[str, Any], list[tuple[int, int]]]:
        """See `Adapter.resized`: patches are put together, resized and cut again."""
        vision, pixels = self.model.config.vision_config, arguments[self.pixels[modality]]
        unit, side = self._merge, vision.patch_size
        grids, small, full, start = arguments[f"{modality}_grid_thw"], [], [], 0
        shrunk = grids.clone()
        for row, (t, h, w) in enumerate(grids.tolist()):
            if t > 1:
                raise ValueError(
                    f"video {row} has {t} frame pairs, but only images can be made smaller; use "
                    "another method for videos"
                )
            image = pixels[start : start + t * h * w].view(
                t, h // unit, w // unit, unit, unit, -1, vision.temporal_patch_size, side, side
            )
            start += t * h * w
            channels = image.shape[5]
            flat = image.permute(0, 5, 6, 1, 3, 7, 2, 4, 8).reshape(t, -1, h * side, w * side)
            a, b = shrink((h // unit, w // unit))
            full.append((h // unit, w // unit))
            size = (a * unit * side, b * unit * side)
            if size != (h * side, w * side):
                flat = interpolate(flat.float(), size=size, mode="bicubic", antialias=True)
            cut = flat.to(pixels.dtype).view(
                t, channels, vision.temporal_patch_size, a, unit, side, b, unit, side
            )
            small.append(cut.permute(0, 3, 6, 4, 7, 1, 2, 5, 8).reshape(t * a * b * unit**2, -1))
            shrunk[row, 1:] = torch.tensor([a * unit, b * unit])
        arguments[self.pixels[modality]] = torch.cat(small)
        arguments[f"{modality}_grid_thw"] = shrunk
        return arguments, full

    def _check_grids(self, arguments: Mapping[str, Any], ids: Tensor, modality: str) -> None:
        """Refuse grids that do not fit pixels, placeholders or token types.

        Raises:
            ValueError: the grids, or the token types.
            PlaceholderMismatchError: the placeholders.
        """
        name, pixels = f"{modality}_grid_thw", self.pixels[modality]
        if arguments.get(name) is None:
            raise ValueError(
                f"{name} is missing beside {pixels}; pass everything that the model's processor "
                "made"
            )
        if not isinstance(arguments[name], Tensor) or arguments[name].dim() != 2:
            raise ValueError(
                f"{name} must be an integer tensor [n, 3], as the model's processor makes it; got "
                f"{arguments[name]!r}"
            )
        for number, thw in enumerate(arguments[name].tolist()):
            if min(thw) < 1 or thw[1] % self._merge or thw[2] % self._merge:
                raise ValueError(
                    f"{name} of {modality} {number} is {thw}; height and width must be positive "
                    f"multiples of {self._merge}, the patches along a visual token"
                )
        patches = arguments[name].prod(-1)
        if int(patches.sum()) != len(arguments[pixels]):
            raise ValueError(
                f"{name} counts {int(patches.sum())} patches but {pixels} has "
                f"{len(arguments[pixels])}; make both with the model's own processor"
            )
        image_columns(ids, self.token_id(modality), (patches // self._merge**2).tolist())
        types = arguments.get("mm_token_type_ids")
        marked = ids == self.token_id(modality)
        if types is not None and not bool(types[:, -ids.shape[1] :][marked].all()):
            raise ValueError(
                "mm_token_type_ids marks placeholder tokens as text; make it and input_ids with "
                "the model's own processor"
            )

    def positions(
        self, arguments: Mapping[str, Any], ids: Tensor, mask: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """M-RoPE positions of new columns, `[4, B, L]`: a plain count, time, height, width."""
        for modality in self.modalities(arguments):
            self._check_grids(arguments, ids, modality)
        new = mask[:, -ids.shape[1] :]
        count = positions_of(mask)
        start = mask[:, : mask.shape[1] - ids.shape[1]].sum(-1) + delta
        types = arguments.get("mm_token_type_ids")
        grids = {
            name: arguments[name]
            for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
            if arguments.get(name) is not None
        }
        if types is None or not grids:
            # As transformers does: without the token types, images are counted like text.
            places, change = positions_of(new).expand(3, -1, -1), torch.zeros_like(delta)
        else:
            places, change = self.model.base_model.get_rope_index(
                ids, mm_token_type_ids=types[:, -ids.shape[1] :], attention_mask=new, **grids
            )
            # The model remembers this for decode loops that leave positions to it.
            self.model.base_model.rope_deltas = (delta + change.view(-1))[:, None]
        places = (places + start[:, None]).masked_fill(new == 0, 0)
        text = count[None, :, -ids.shape[1] :]
        return torch.cat([text, places]), delta + change.view(-1)
