"""Models of stated shapes with random weights, so that speed needs no download.

In: a preset and a device. Out: a transformers model and a prompt of one image, as the processor
would make them. Speed depends on shapes, not on what weights know; answers mean nothing here.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SiglipVisionConfig,
)

from lvlm_prune.eval.speed_presets import SpeedPreset

CLASSES: dict[str, Any] = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}
MERGE = 2  # patches along a side of a visual token of Qwen-VL
FRAMES = 2  # frames in a patch of Qwen-VL


def build_model(preset: SpeedPreset, device: str, seed: int = 0) -> Any:
    """Make the model on the device, with random weights and SDPA attention.

    Args:
        preset: its shapes.
        device: where the weights are made.
        seed: seed of the weights.

    Returns:
        A model in eval mode that never stops before `max_new_tokens`.
    """
    config = _qwen_config(preset) if preset.kind == "qwen2_5_vl" else _llava_config(preset)
    torch.manual_seed(seed)
    with torch.device(device):
        model = CLASSES[preset.kind]._from_config(
            config, attn_implementation="sdpa", dtype=getattr(torch, preset.dtype)
        )
    # Random weights would end at a random place.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def _llava_config(preset: SpeedPreset) -> LlavaConfig | LlavaNextConfig:
    """LLaVA-1.5, or LLaVA-NeXT for a preset with tiles."""
    siglip = preset.encoder == "siglip"
    # SigLIP's pooling head makes no visual tokens.
    vision = (partial(SiglipVisionConfig, vision_use_head=False) if siglip else CLIPVisionConfig)(
        hidden_size=preset.vision.width,
        intermediate_size=preset.vision.mlp,
        num_hidden_layers=preset.vision.depth,
        num_attention_heads=preset.vision.heads,
        image_size=preset.image_size,
        patch_size=preset.patch_size,
    )
    text = LlamaConfig(
        hidden_size=preset.llm.width,
        intermediate_size=preset.llm.mlp,
        num_hidden_layers=preset.llm.depth,
        num_attention_heads=preset.llm.heads,
        num_key_value_heads=preset.kv_heads or preset.llm.heads,
        vocab_size=preset.vocabulary,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )
    settings: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": preset.image_token,
        "vision_feature_layer": -1 if siglip else -2,
        "vision_feature_select_strategy": "full" if siglip else "default",
    }
    if preset.kind == "llava":
        return LlavaConfig(**settings)
    return LlavaNextConfig(**settings, image_grid_pinpoints=[_picture_size(preset)])


def _qwen_config(preset: SpeedPreset) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL; M-RoPE sections are those of the checkpoint, at the width of a head."""
    head = preset.llm.width // preset.llm.heads
    height = 3 * head // 16
    vision = {
        "depth": preset.vision.depth,
        "hidden_size": preset.vision.width,
        "num_heads": preset.vision.heads,
        "intermediate_size": preset.vision.mlp,
        "out_hidden_size": preset.llm.width,
        "patch_size": preset.patch_size,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "fullatt_block_indexes": list(preset.full_layers),
        "window_size": 8 * preset.patch_size,
    }
    text = {
        "hidden_size": preset.llm.width,
        "intermediate_size": preset.llm.mlp,
        "num_hidden_layers": preset.llm.depth,
        "num_attention_heads": preset.llm.heads,
        "num_key_value_heads": preset.kv_heads or preset.llm.heads,
        "vocab_size": preset.vocabulary,
        "bos_token_id": None,
        "eos_token_id": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [head // 2 - 2 * height, height, height],
        },
    }
    first = preset.image_token
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=first,
        video_token_id=first + 1,
        vision_start_token_id=first + 2,
        vision_end_token_id=first + 3,
        tie_word_embeddings=False,
    )


def make_prompt(
    preset: SpeedPreset, device: str, visual_tokens: int, seed: int = 0
) -> dict[str, Tensor]:
    """A prompt of one image between two halves of random text.

    Args:
        preset: vocabulary, lengths and image size.
        device: where the tensors go.
        visual_tokens: placeholder tokens in the prompt.
        seed: seed of text and pixels.

    Returns:
        `input_ids` and `attention_mask` `[1, L]`, `pixel_values`, and what else the model's
        processor makes for an image.
    """
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, preset.image_token, (preset.text_tokens,), generator=generator)
    image = torch.full((visual_tokens,), preset.image_token)
    half = preset.text_tokens // 2
    ids = torch.cat([text[:half], image, text[half:]]).unsqueeze(0)
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    side = preset.image_size
    size: tuple[int, ...] = (1, 3, side, side)
    if preset.kind == "llava_next":
        size = (1, 1 + preset.tiles[0] * preset.tiles[1], 3, side, side)
        prompt["image_sizes"] = torch.tensor([_picture_size(preset)])
    elif preset.kind == "qwen2_5_vl":
        height, width = (MERGE * rows for rows in preset.grid)
        size = (height * width, 3 * FRAMES * preset.patch_size**2)
        prompt["image_grid_thw"] = torch.tensor([[1, height, width]])
        prompt["mm_token_type_ids"] = (ids == preset.image_token).int()
    pixels = torch.randn(size, generator=generator)
    prompt["pixel_values"] = pixels.to(getattr(torch, preset.dtype))
    return {name: value.to(device) for name, value in prompt.items()}


def _picture_size(preset: SpeedPreset) -> list[int]:
    """Height and width of an image that fills all tiles, pixels."""
    return [rows * preset.image_size for rows in preset.tiles]
