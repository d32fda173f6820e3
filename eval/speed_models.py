"""Models of stated shapes with random weights, so that speed needs no download.

In: the name of a preset and a device. Out: a `LlavaForConditionalGeneration` and a prompt of one
image, as the processor would make them. Speed depends on shapes, not on what weights know; answers
mean nothing here. Shapes of `llava-1.5-7b` are those of the checkpoint llava-hf/llava-1.5-7b-hf.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from lvlm_prune.adapters import FAMILIES, supported

# Presets that wait for their family, with its model type.
PLANNED = {"llava-next-7b": "llava_next"}
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Layers:
    """Shape of a stack of transformer layers."""

    depth: int
    width: int
    heads: int
    mlp: int


@dataclass(frozen=True)
class SpeedPreset:
    """Shapes of a CLIP encoder, a Llama LLM and a prompt.

    Args:
        name: what `--preset` takes.
        vision: the encoder; its last layer but one is projected.
        llm: the LLM; every head has keys and values of its own.
        image_size: side of the square image, pixels.
        patch_size: side of a patch, pixels.
        vocabulary: tokens; the placeholder is the first of the last 64, as in llava-1.5.
        text_tokens: prompt tokens besides the image.
        dtype: torch dtype by name.
        needs_gpu: refuse the CPU.
    """

    name: str
    vision: Layers
    llm: Layers
    image_size: int = 336
    patch_size: int = 14
    vocabulary: int = 32064
    text_tokens: int = 60
    dtype: str = "float32"
    needs_gpu: bool = False

    @property
    def visual_tokens(self) -> int:
        """N of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def image_token(self) -> int:
        """Id of the placeholder token."""
        return self.vocabulary - 64


_ALL = (
    # CLIP-L/14-336 with 4 of its 24 layers, and an LLM that two cores can run in minutes.
    SpeedPreset("cpu", Layers(4, 1024, 16, 4096), Layers(8, 1024, 16, 2752)),
    SpeedPreset(
        "llava-1.5-7b",
        Layers(24, 1024, 16, 4096),
        Layers(32, 4096, 32, 11008),
        dtype="bfloat16",
        needs_gpu=True,
    ),
    # Shows in seconds that the command works; its times mean nothing.
    SpeedPreset(
        "tiny",
        Layers(4, 32, 4, 64),
        Layers(3, 32, 4, 64),
        image_size=56,
        patch_size=7,
        vocabulary=256,
        text_tokens=10,
    ),
)
PRESETS = {preset.name: preset for preset in _ALL}


def preset_named(name: str, device: str) -> SpeedPreset:
    """Look a preset up and check that the device can run it.

    Args:
        name: name of the preset.
        device: torch device, `cpu`, `cuda` or `cuda:1`.

    Raises:
        ValueError: no such preset or device, a family that is not supported, or a device that
            cannot hold the model; the message says what can be run instead.
    """
    if name in PLANNED and PLANNED[name] not in [family.model_type for family in FAMILIES]:
        raise ValueError(
            f"preset {name!r} needs the model family {PLANNED[name]!r}, which cannot be pruned "
            f"yet; supported: {supported()}; presets: {', '.join(PRESETS)}"
        )
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    kind = device.split(":")[0]
    if kind not in DEVICES:
        raise ValueError(f"device must be cpu, cuda or cuda:NUMBER, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for but torch finds no GPU; use --device cpu")
    if PRESETS[name].needs_gpu and kind == "cpu":
        raise ValueError(
            f"preset {name!r} has its true shape and is meant for a GPU; add --device cuda, or use "
            "--preset cpu"
        )
    return PRESETS[name]


def build_model(preset: SpeedPreset, device: str, seed: int = 0) -> Any:
    """Make the model on the device, with random weights and SDPA attention.

    Args:
        preset: its shapes.
        device: where the weights are made.
        seed: seed of the weights.

    Returns:
        A `LlavaForConditionalGeneration` in eval mode that never stops before `max_new_tokens`.
    """
    vision = CLIPVisionConfig(
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
        num_key_value_heads=preset.llm.heads,
        vocab_size=preset.vocabulary,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=preset.image_token,
        vision_feature_layer=-2,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = LlavaForConditionalGeneration._from_config(
            config, attn_implementation="sdpa", dtype=getattr(torch, preset.dtype)
        )
    # Random weights would end at a random place.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


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
        `input_ids` and `attention_mask` `[1, L]`, `pixel_values` `[1, 3, height, width]`.
    """
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, preset.image_token, (preset.text_tokens,), generator=generator)
    image = torch.full((visual_tokens,), preset.image_token)
    half = preset.text_tokens // 2
    ids = torch.cat([text[:half], image, text[half:]]).unsqueeze(0)
    size = (1, 3, preset.image_size, preset.image_size)
    pixels = torch.randn(size, generator=generator).to(getattr(torch, preset.dtype))
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return {name: value.to(device) for name, value in prompt.items()}
