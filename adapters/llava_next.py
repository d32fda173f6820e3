"""LLaVA-NeXT and LLaVA-OneVision: tiles, unpadding, newline tokens, videos.

Written for transformers' `LlavaNextForConditionalGeneration` and `LlavaOnevision...`. An image is
cut into tiles: its tokens are those of the whole image made small (the base tile), then those of
the tiles joined to one picture, without its padding, with a newline token after each row: at most
5 x 576 = 2,880 tokens and the newline tokens for llava-1.6. OneVision has SigLIP, which has no CLS
token, shrinks pictures of many tiles, cuts only an image that is alone in its prompt, and takes
videos, whose frames are pooled 2x2 and end in one newline token.

Signals of the tiles go through the model's own `pack_image_features` and `apply_pooling`, as
channels of a feature map, so unpadding and shrinking come out as they do for features. Newline
tokens stand for no patch: they are no candidates, and stay only if nothing is dropped.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from lvlm_prune.adapters.base import pixel_fingerprint
from lvlm_prune.adapters.encoded import Grouping, ImageGroup, Part, frames, map_tokens
from lvlm_prune.adapters.llava import LlavaAdapter
from lvlm_prune.progressive import TileSize
from lvlm_prune.readings import AttentionReader
from lvlm_prune.signals import Signals


class LlavaNextAdapter(LlavaAdapter):
    """LLaVA-NeXT (1.6): tiles, unpadding, newline tokens."""

    model_types = ("llava_next",)
    covers = "LLaVA-NeXT (1.6), tiles"
    tiles = True
    newlines = True
    resizes = False

    def grid(self) -> tuple[int, int] | None:
        """Depends on the image."""
        return None

    def encoder_arguments(self, inputs: Mapping[str, Any], modality: str) -> dict[str, Any]:
        """See `LlavaAdapter.encoder_arguments`; sizes may come as a list."""
        arguments = super().encoder_arguments(inputs, modality)
        if arguments.get("image_sizes") is not None:
            arguments["image_sizes"] = torch.as_tensor(arguments["image_sizes"])
        return arguments

    def _pack(self, size: Tensor) -> Callable[[Tensor], Tensor]:
        """The packing of an image of a size (height, width), `[t, N, C]` to `[n, C]`.

        Newline tokens come out as NaN.
        """
        strategy = self.model.config.vision_feature_select_strategy

        def pack(tiles: Tensor) -> Tensor:
            newline = tiles.new_full((tiles.shape[-1],), torch.nan)
            packed, _ = self.model.base_model.pack_image_features(
                [tiles], size[None], strategy, image_newline=newline
            )
            return packed[0]

        return pack

    def tile_sizes(self, arguments: Mapping[str, Any], modality: str) -> list[list[TileSize]]:
        """See `Adapter.tile_sizes`; padding counts, for it is cut off after the encoder."""
        h, w = self._tile_grid()
        return [[TileSize(h * w, h * w)] * count for count in self._tile_counts(arguments)]

    def _tile_counts(self, arguments: Mapping[str, Any]) -> list[int]:
        """Tiles of each image, the base tile included."""
        several = arguments.get("batch_num_images")
        sizes = arguments["image_sizes"]
        alone = [True] * len(sizes)
        if several is not None:
            # OneVision cuts an image only if it is the only one of its prompt.
            alone = [int(n) == 1 for n in several for _ in range(int(n))]
        shapes = [self._picture_shape(size) for size in sizes]
        return [
            1 + shape[0] * shape[1] if single else 1
            for shape, single in zip(shapes, alone, strict=True)
        ]

    def _picture_shape(self, size: Tensor) -> tuple[int, int]:
        """Rows and columns of tiles that an image of a size (height, width) is cut into."""
        config = self.model.config
        tile = config.vision_config.image_size
        return get_anyres_image_grid_shape(size, config.image_grid_pinpoints, tile)

    def _groups(
        self,
        outputs: Any,
        arguments: Mapping[str, Any],
        modality: str,
        reader: AttentionReader,
        sink_threshold: float | None,
    ) -> list[ImageGroup]:
        """Pack the tiles' signals image by image; equal sizes share a group."""
        counts = self._tile_counts(arguments)
        tiles = self._tile_signals(outputs, reader, sink_threshold, self._tile_grid())
        grouping, start = Grouping(), 0
        for image, (count, size) in enumerate(zip(counts, arguments["image_sizes"], strict=True)):
            mine = tiles.images(list(range(start, start + count)))
            group = self._packed(image, mine, size, outputs.pooler_output[image])
            if reader.request.fingerprint:
                pixels = arguments["pixel_values"]
                own = pixels[image, :count] if pixels.dim() == 5 else pixels[start : start + count]
                mark = pixel_fingerprint(own)
                group = replace(group, signals=replace(group.signals, fingerprint=mark))
            grouping.add((count, *size.tolist()), group)
            start += count
        return grouping.groups()

    def _packed(self, image: int, tiles: Signals, size: Tensor, features: Tensor) -> ImageGroup:
        """One image from its tiles."""
        count, n = tiles.features.shape[:2]
        pack, device = self._pack(size), features.device
        across = self._picture_shape(size)[1]
        # Row and column of the tile that a token comes from; the base tile's are not used.
        index = torch.arange(-1, count - 1, device=device).float()
        tile = torch.stack([index.div(across, rounding_mode="floor"), index % across], dim=-1)
        places = pack(tile[:, None].expand(count, n, 2).contiguous())
        rows = places[:, 0].isfinite().nonzero()[:, 0]
        signals = map_tokens(tiles, lambda values: pack(values.float())[rows], features[rows])
        signals = replace(signals, hidden=signals.hidden.to(tiles.hidden.dtype))
        grid = self._tile_grid()
        base = Part(torch.arange(n, device=device), grid, signals.cls_hidden)
        if len(rows) == n:  # a single tile, or nothing is left of a picture without its padding
            signals = replace(signals, grid=grid)
            return ImageGroup([image], signals, (base,), (), rows, features[None])
        breaks = rows[n:].diff().ne(1).nonzero()
        width = int(breaks[0, 0]) + 1 if len(breaks) else len(rows) - n
        picture = torch.arange(n, len(rows), device=device).view(-1, width)
        places = places[rows[n:]].round().view(*picture.shape, 2)
        tiled = [
            Part(own.flatten(), (own.shape[0], own.shape[1]), tiles.cls_hidden[[number]])
            if tiles.cls_hidden is not None
            else Part(own.flatten(), (own.shape[0], own.shape[1]))
            for number, own in _cut(picture, places, across)
        ]
        shape = (picture.shape[0], picture.shape[1])
        whole_picture = Part(picture.flatten(), shape, signals.cls_hidden)
        return ImageGroup(
            [image], signals, (base, whole_picture), (base, *tiled), rows, features[None]
        )


class LlavaOnevisionAdapter(LlavaNextAdapter):
    """LLaVA-OneVision: as NeXT with SigLIP; pictures of many tiles are shrunk; videos."""

    model_types = ("llava_onevision",)
    covers = "LLaVA-OneVision, tiles and videos"
    fixed = (*LlavaAdapter.fixed, "vision_aspect_ratio")
    pixels = {"image": "pixel_values", "video": "pixel_values_videos"}

    def _pack(self, size: Tensor) -> Callable[[Tensor], Tensor]:
        """See `LlavaNextAdapter._pack`; shrinking comes before the newline tokens."""
        ratio = self.model.config.vision_aspect_ratio

        def pack(tiles: Tensor) -> Tensor:
            newline = tiles.new_full((tiles.shape[-1],), torch.nan)
            packed, _ = self.model.base_model.pack_image_features(
                [tiles], size[None], image_newline=newline, vision_aspect_ratio=ratio
            )
            return packed[0]

        return pack

    def _groups(
        self,
        outputs: Any,
        arguments: Mapping[str, Any],
        modality: str,
        reader: AttentionReader,
        sink_threshold: float | None,
    ) -> list[ImageGroup]:
        """Images as in NeXT; the frames of a video are its parts."""
        if modality == "image":
            return super()._groups(outputs, arguments, modality, reader, sink_threshold)
        pixels = arguments["pixel_values_videos"]
        videos, count = pixels.shape[:2]
        tiles = self._tile_signals(outputs, reader, sink_threshold, self._tile_grid())
        h, w = self._tile_grid()
        grid = (-(-h // 2), -(-w // 2))
        parts = frames(count, grid, pixels.device)
        grouping = Grouping()
        for video in range(videos):
            mine = tiles.images(list(range(video * count, (video + 1) * count)))
            features = outputs.pooler_output[video]
            signals = map_tokens(mine, self._pooled, features[:-1])
            signals = replace(signals, hidden=signals.hidden.to(mine.hidden.dtype))
            if reader.request.fingerprint:
                signals = replace(signals, fingerprint=pixel_fingerprint(pixels[video]))
            rows = torch.arange(len(features) - 1, device=pixels.device)
            group = ImageGroup([video], signals, parts, parts, rows, features[None])
            grouping.add("video", group)
        return grouping.groups()

    def tile_sizes(self, arguments: Mapping[str, Any], modality: str) -> list[list[TileSize]]:
        """See `Adapter.tile_sizes`; a frame has four patches a token."""
        if modality == "image":
            return super().tile_sizes(arguments, modality)
        h, w = self._tile_grid()
        videos, count = arguments["pixel_values_videos"].shape[:2]
        return [[TileSize(h * w, -(-h // 2) * -(-w // 2))] * count] * videos

    def _pooled(self, values: Tensor) -> Tensor:
        """Pool the frames of a video, `[t, N, C]` to `[t * n, C]`."""
        return self.model.base_model.apply_pooling(values.float()).flatten(0, 1)


def _cut(picture: Tensor, places: Tensor, across: int) -> Iterator[tuple[int, Tensor]]:
    """The tiles of a picture: number of the tile and its tokens, `[h, w]`.

    Args:
        picture: candidates of the picture, `[h, w]`.
        places: row and column of the tile of each, `[h, w, 2]`.
        across: tiles in a row of tiles.
    """
    for row in places[:, 0, 0].unique().tolist():
        for column in places[0, :, 1].unique().tolist():
            own = picture[places[:, 0, 0] == row][:, places[0, :, 1] == column]
            yield 1 + int(row) * across + int(column), own
