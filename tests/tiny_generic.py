"""Tiny random models of classes that no family covers, with the arguments of one image each.

`GENERIC[name].model()` builds from a seed; `.prompts("tit", "titit")` is a padded batch, where a
layout is a string of `t` (three text tokens) and `i` (an image).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from typing import Any

import tiny_generic_configs as configs
import torch
import transformers
from packaging.version import Version
from tiny_families import IMAGE, built, padded
from torch import Tensor


@dataclass(frozen=True)
class Generic:
    """A class without a family.

    Args:
        name: of the class.
        config: makes its config.
        tokens: visual tokens of each image.
        image: pixels and sizes of one image, with the images along dim 0.
        types: name of the token types that its prompts need, if any.
        several: dimension before the images (one row a prompt), if the class wants it.
    """

    name: str
    config: Callable[[], Any]
    tokens: int
    image: dict[str, Tensor] = field(hash=False)
    types: str | None = None
    several: bool = False

    def model(self, attention: str = "sdpa"):
        """The model, shared by all tests."""
        return cached_model(self, attention)

    def prompts(self, *layouts: str) -> dict[str, Tensor]:
        """A batch, padded on the left."""
        rows = []
        for number, layout in enumerate(layouts):
            row = [1]
            for place, part in enumerate(layout):
                own = torch.Generator().manual_seed(number * 101 + place)
                text = torch.randint(3, 50, (3,), generator=own).tolist()
                row += [IMAGE] * self.tokens if part == "i" else text
            rows.append(row)
        batch = padded(rows, "left")
        counts = [layout.count("i") for layout in layouts]
        batch |= {name: self._stacked(name, value, counts) for name, value in self.image.items()}
        if self.types:
            batch[self.types] = (batch["input_ids"] == IMAGE).long()
        return batch

    def _stacked(self, name: str, value: Tensor, counts: list[int]) -> Tensor:
        """One tensor for all images; pixels differ from image to image."""
        images = torch.cat([value] * sum(counts))
        if value.is_floating_point():
            own = torch.Generator().manual_seed(7)
            images = torch.randn(images.shape, generator=own)
        if not self.several:
            return images
        rows = images.new_zeros(len(counts), max(counts), *value.shape[1:])
        for row, one in zip(rows, images.split(counts), strict=True):
            row[: len(one)] = one
        return rows


@cache
def cached_model(generic: Generic, attention: str):
    """One model for each class and attention implementation."""
    return built(generic.name, generic.config(), attention)


PIXELS = {"pixel_values": torch.zeros(1, 3, 28, 28)}
SIZED = {**PIXELS, "image_sizes": torch.tensor([[28, 28]])}
TILED = {"pixel_values": torch.zeros(1, 3, 3, 28, 28), "image_sizes": torch.tensor([[56, 28]])}
GRID = {"image_grid_thw": torch.tensor([[1, 4, 6]])}
PATCHES = {"pixel_values": torch.zeros(24, 3 * 7 * 7), **GRID}
PAIRED = {"pixel_values": torch.zeros(24, 3 * 2 * 7 * 7), **GRID}
SQUARES = {"pixel_values": torch.zeros(24, 3, 7, 7), **GRID}
NAFLEX = {
    "pixel_values": torch.zeros(1, 16, 3 * 7 * 7),
    "spatial_shapes": torch.tensor([[4, 4]]),
    "pixel_attention_mask": torch.ones(1, 16, dtype=torch.int64),
}
PLACED = {
    "pixel_values": torch.zeros(1, 16, 3 * 7 * 7),
    "image_position_ids": torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(1)[None],
}
MM_TYPES = "mm_token_type_ids"


def of(name: str, *details, **more) -> Generic:
    """A class `<name>ForConditionalGeneration`."""
    return Generic(f"{name}ForConditionalGeneration", *details, **more)


ALL = {
    "gemma3": of("Gemma3", configs.gemma3, 4, PIXELS, "token_type_ids"),
    "gemma4": of("Gemma4", configs.gemma4, 4, PLACED, MM_TYPES),
    "paligemma": of("PaliGemma", configs.paligemma, 16, PIXELS, "token_type_ids"),
    "idefics2": of("Idefics2", configs.idefics2, 4, PIXELS, several=True),
    "idefics3": of("Idefics3", configs.idefics3, 4, PIXELS, several=True),
    "smolvlm": of("SmolVLM", configs.smolvlm, 4, PIXELS, several=True),
    "mistral3": of("Mistral3", configs.mistral3, 4, SIZED),
    "lighton_ocr": of("LightOnOcr", configs.lighton_ocr, 4, SIZED),
    "cohere2_vision": of("Cohere2Vision", configs.cohere2_vision, 4, PIXELS),
    "aya_vision": of("AyaVision", configs.aya_vision, 4, PIXELS),
    "aria": of("Aria", configs.aria, 4, PIXELS),
    "deepseek_vl": of("DeepseekVL", configs.deepseek_vl, 16, PIXELS),
    "janus": of("Janus", configs.janus, 16, PIXELS),
    "vipllava": of("VipLlava", configs.vipllava, 16, PIXELS),
    "llava_next_video": of("LlavaNextVideo", configs.llava_next_video, 56, TILED),
    "lfm2_vl": of("Lfm2Vl", configs.lfm2_vl, 4, NAFLEX),
    "glm4v": of("Glm4v", configs.glm4v, 6, PAIRED, MM_TYPES),
    "paddleocr_vl": of("PaddleOCRVL", configs.paddleocr_vl, 6, SQUARES, MM_TYPES),
    "ernie4_5_vl_moe": of("Ernie4_5_VLMoe", configs.ernie4_5_vl_moe, 6, PATCHES, MM_TYPES),
    "video_llama_3": of(
        "VideoLlama3",
        configs.video_llama_3,
        24,
        {**PATCHES, "image_merge_sizes": torch.tensor([1])},
    ),
}


def takes_outputs(name: str) -> bool:
    """Whether the installed transformers has a class, and it accepts encoder outputs."""
    one = getattr(transformers, name, None)
    return one is not None and "mm_encoder_outputs" in signature(one.forward).parameters


# An older transformers has not all of them.
GENERIC = {name: generic for name, generic in ALL.items() if takes_outputs(generic.name)}

# Before, SmolVLM wanted equally many features of every image in one tensor.
if Version(transformers.__version__) < Version("5.23"):
    del GENERIC["smolvlm"]
