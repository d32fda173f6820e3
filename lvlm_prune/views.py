"""What the encoder saw of an image: one picture for each grid of visual tokens.

In: an image, the tensors that a processor made of it alone, and the tiles of a `Choice`. Out:
`View`s in rows, as they lie beside each other: the image itself (LLaVA-1.5, Qwen-VL), the base tile
and the picture that the tiles were joined to (LLaVA-NeXT, OneVision), or the tiles in their rows
and the thumbnail (InternVL). It reads shapes of tensors and knows no family by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

Tiles = Sequence[tuple[Tensor, tuple[int, int]]]
LONGEST = 896  # pixels; a picture in a panel needs no more


@dataclass(frozen=True)
class View:
    """A picture with a grid of visual tokens.

    Args:
        image: what the encoder saw.
        rows: the prompt's placeholder of each token in raster order, `[n]`.
        grid: (h, w) with h * w == n.
        name: what it shows of an image that has several views.
    """

    image: Image.Image
    rows: Tensor
    grid: tuple[int, int]
    name: str = ""

    def own(self, tokens: Tensor, total: int) -> Tensor:
        """Those of some tokens `[K]` of the prompt's N that lie in this view, as its own rows."""
        place = tokens.new_full((total,), -1)
        place[self.rows.to(tokens.device)] = place.new_tensor(range(len(self.rows)))
        found = place[tokens]
        return found[found >= 0]


def views(
    picture: Image.Image, inputs: Mapping[str, Tensor], tiles: Tiles, processor: Any
) -> list[list[View]]:
    """The views of one image.

    Args:
        picture: the image as it was opened.
        inputs: what the processor made of this image alone.
        tiles: placeholders and grid of each tile, as `Choice.tiles` has them.
        processor: the image processor, for its mean and deviation.

    Returns:
        Rows of views; none where the tokens form no grid that could be drawn.
    """
    seen = seen_images(inputs, processor)
    if not seen:
        return []
    if len(tiles) == 2 and inputs["pixel_values"].dim() == 5 and tiles[1][1][0] > 1:
        return fitted([_base_and_picture(seen[0], picture, tiles)])
    if len(tiles) not in (1, len(seen)):
        return []
    shown = [
        View(image, rows, known)
        for image, (rows, grid) in zip(seen, tiles, strict=False)
        if (known := guessed_grid(grid, picture if len(tiles) == 1 else image))
    ]
    return fitted(_laid_out(shown, picture)) if len(shown) == len(tiles) else []


def _base_and_picture(base: Image.Image, picture: Image.Image, tiles: Tiles) -> list[View]:
    """The base tile, and the picture that the others were joined to.

    Without its padding, that is the image in the tiles' resolution.
    """
    (base_rows, base_grid), (rows, grid) = tiles
    token = base.width // base_grid[1]
    size = (grid[1] * token, grid[0] * token)
    joined = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return [
        View(base, base_rows, base_grid, "whole image"),
        View(joined, rows, grid, "its tiles, joined"),
    ]


def seen_images(inputs: Mapping[str, Tensor], processor: Any) -> list[Image.Image]:
    """The pictures that an image's pixel tensor holds; none where its layout is not known."""
    pixels = inputs["pixel_values"]
    mean, std = processor.image_mean, processor.image_std
    packed = pixels.dim() == 2 and "image_grid_thw" in inputs
    if not packed and (pixels.dim() < 4 or pixels.shape[-3] != len(mean)):
        return []
    if packed:
        unit = getattr(processor, "merge_size", 1)
        frames = getattr(processor, "temporal_patch_size", 1)
        _, h, w = inputs["image_grid_thw"][0].tolist()
        return [model_view(unpacked(pixels[: h * w], (h, w), unit, frames), mean, std)]
    return [model_view(tile, mean, std) for tile in pixels.flatten(0, -4)]


def unpacked(patches: Tensor, grid: tuple[int, int], unit: int, frames: int) -> Tensor:
    """Put the packed patches of a Qwen-VL image together.

    Args:
        patches: `[h * w, channels * frames * side * side]`, the patches of a token in a row.
        grid: (h, w) patches.
        unit: patches along a side of a token.
        frames: equal frames in a patch.

    Returns:
        `[channels, height, width]`.
    """
    h, w = grid
    side = round((patches.shape[1] / (3 * frames)) ** 0.5)
    blocks = patches.view(h // unit, w // unit, unit, unit, 3, frames, side, side)[:, :, :, :, :, 0]
    return blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, h * side, w * side)


def model_view(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """The image that the encoder saw, after the processor's resizing and cropping.

    Args:
        pixels: one image or tile, `[3, height, width]`.
        mean: the image processor's `image_mean`.
        std: the image processor's `image_std`.
    """
    values = pixels.detach().float().cpu().numpy()
    values = values * np.array(std)[:, None, None] + np.array(mean)[:, None, None]
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))


def guessed_grid(grid: tuple[int, int], picture: Image.Image) -> tuple[int, int] | None:
    """The grid of tokens of which only the number is known, if square tokens would fill the image.

    Args:
        grid: (h, w); (1, n) may mean that no grid is known.
        picture: the image.
    """
    n = grid[0] * grid[1]
    if grid[0] > 1 or n == 1:
        return grid
    for side in (n**0.5, (n * picture.height / picture.width) ** 0.5):
        h = max(1, round(side))
        if h > 1 and n % h == 0:
            return h, n // h
    return None


def _laid_out(shown: list[View], picture: Image.Image) -> list[list[View]]:
    """Tiles in the rows and columns that fit the image best, and the thumbnail, which comes last.

    Without a thumbnail the number of tiles may be a product, too; then all are in rows.
    """
    if len(shown) == 1:
        return [shown]
    count = len(shown) - 1
    shown = [
        *(replace(view, name=f"tile {number + 1}") for number, view in enumerate(shown[:-1])),
        replace(shown[-1], name="whole image"),
    ]
    shapes = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
    aspect = picture.width / picture.height
    h, w = min(shapes, key=lambda shape: abs(aspect - shape[1] / shape[0]))
    rows = [shown[row * w : (row + 1) * w] for row in range(h)]
    rows[0] = [*rows[0], shown[-1]]
    return rows


def fitted(rows: list[list[View]]) -> list[list[View]]:
    """Shrink all views by the same share until they fit a panel together."""
    width = max(sum(view.image.width for view in row) for row in rows)
    height = sum(max(view.image.height for view in row) for row in rows)
    share = min(1.0, LONGEST / max(width, height))
    return [[replace(view, image=_scaled(view.image, share)) for view in row] for row in rows]


def _scaled(image: Image.Image, share: float) -> Image.Image:
    """An image with its sides multiplied."""
    if share == 1:
        return image
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.LANCZOS)
