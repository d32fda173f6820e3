"""Tiny random models of classes that no family covers, with the arguments of one image each.

`GENERIC[name].model()` builds from a seed; `.prompts("tit", "titit")` is a padded batch, where a
layout is a string of `t` (three text tokens) and `i` (an image).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers
from packaging.version import Version
from tiny_families import IMAGE, TEXT, built, padded
from torch import Tensor

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
GEMMA = {**TEXT, "head_dim": 8, "vocab_size": 99}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}


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


def gemma3():
    """Gemma 3: 16 patches pooled to 4 tokens, which see each other both ways."""
    return transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**GEMMA, sliding_window=512),
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        mm_tokens_per_image=4,
        image_token_id=IMAGE,
    )


def paligemma():
    """PaliGemma: a SigLIP patch a token."""
    return transformers.PaliGemmaConfig(
        text_config=transformers.GemmaConfig(**GEMMA),
        vision_config=transformers.SiglipVisionConfig(
            **VISION, vision_use_head=False, projection_dim=32
        ),
        image_token_id=IMAGE,
        projection_dim=32,
    )


def idefics3():
    """Idefics 3: 2 x 2 patches shuffled into a token."""
    return transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config={**VISION},
        scale_factor=2,
        image_token_id=IMAGE,
    )


def smolvlm():
    """SmolVLM, as Idefics 3."""
    return transformers.SmolVLMConfig(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config={**VISION},
        scale_factor=2,
        image_token_id=IMAGE,
    )


def mistral3():
    """Mistral 3: a Pixtral encoder, 2 x 2 patches merged."""
    return transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**TEXT),
        vision_config=transformers.PixtralVisionConfig(**VISION),
        spatial_merge_size=2,
        vision_feature_layer=-1,
        image_token_index=IMAGE,
    )


def cohere2_vision():
    """Cohere 2 Vision: 2 x 2 patches shuffled."""
    return transformers.Cohere2VisionConfig(
        text_config=transformers.Cohere2Config(**TEXT),
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        downsample_factor=2,
        alignment_intermediate_size=64,
        image_token_id=IMAGE,
    )


def aya_vision():
    """Aya Vision: 2 x 2 patches shuffled."""
    return transformers.AyaVisionConfig(
        text_config=transformers.Cohere2Config(**TEXT),
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def glm4v():
    """GLM-4.1V: M-RoPE positions."""
    return transformers.Glm4vConfig(
        text_config={**TEXT, "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0}},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "image_size": 56,
            "patch_size": 7,
            "out_hidden_size": 32,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=IMAGE,
        video_token_id=91,
        image_start_token_id=92,
        image_end_token_id=93,
        video_start_token_id=94,
        video_end_token_id=95,
    )


PIXELS = {"pixel_values": torch.zeros(1, 3, 28, 28)}
LARGER = {"pixel_values": torch.zeros(1, 3, 56, 56)}
GENERIC = {
    "gemma3": Generic("Gemma3ForConditionalGeneration", gemma3, 4, PIXELS, "token_type_ids"),
    "paligemma": Generic(
        "PaliGemmaForConditionalGeneration", paligemma, 16, PIXELS, "token_type_ids"
    ),
    "idefics3": Generic("Idefics3ForConditionalGeneration", idefics3, 4, PIXELS, several=True),
    "smolvlm": Generic("SmolVLMForConditionalGeneration", smolvlm, 4, PIXELS, several=True),
    "mistral3": Generic(
        "Mistral3ForConditionalGeneration",
        mistral3,
        4,
        {**PIXELS, "image_sizes": torch.tensor([[28, 28]])},
    ),
    "cohere2_vision": Generic("Cohere2VisionForConditionalGeneration", cohere2_vision, 4, PIXELS),
    "aya_vision": Generic("AyaVisionForConditionalGeneration", aya_vision, 4, PIXELS),
    "glm4v": Generic(
        "Glm4vForConditionalGeneration",
        glm4v,
        6,
        {
            "pixel_values": torch.zeros(24, 3 * 2 * 7 * 7),
            "image_grid_thw": torch.tensor([[1, 4, 6]]),
        },
        "mm_token_type_ids",
    ),
}

# Before, SmolVLM wanted equally many features of every image in one tensor.
if Version(transformers.__version__) < Version("5.23"):
    del GENERIC["smolvlm"]
