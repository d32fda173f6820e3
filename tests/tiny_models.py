"""Tiny random models, built in code from a seed, and prompts for them. No network, no files."""

import copy

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

IMAGE_TOKEN = 90
PAD = 0
GRID = (6, 6)
TOKENS = 36


def tiny_llava(attention: str = "sdpa", seed: int = 0) -> LlavaForConditionalGeneration:
    """LLaVA-1.5 with 36 visual tokens: CLIP 4 layers x 32, Llama 3 layers x 32."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=42,
        patch_size=7,
    )
    text = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=99,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE_TOKEN,
        vision_feature_layer=-2,
    )
    config._attn_implementation = attention
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.pad_token_id = PAD
    # Random weights would emit placeholders and end early.
    model.generation_config.suppress_tokens = [IMAGE_TOKEN, 1, 2]
    model.generation_config.eos_token_id = None
    return model.eval()


def fresh_copy(model: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """A copy that a test may change."""
    return copy.deepcopy(model)


def prompts(*layouts: str, seed: int = 1, padding: str = "left") -> dict[str, torch.Tensor]:
    """Padded prompts; a layout is a string of `t` (three text tokens) and `i` (one image).

    `prompts("tit", "titit", "tt")` is a batch with one, two and no images.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number, layout in enumerate(layouts):
        # Every row draws from its own generator, so that it is the same alone and in a batch.
        row_generator = torch.Generator().manual_seed(seed * 1000 + hash_layout(layout) + number)
        row = [torch.tensor([1])]
        for part in layout:
            text = torch.randint(3, 89, (3,), generator=row_generator)
            row.append(torch.full((TOKENS,), IMAGE_TOKEN) if part == "i" else text)
        rows.append(torch.cat(row))
    longest = max(len(row) for row in rows)
    ids, mask = [], []
    for row in rows:
        pad = torch.full((longest - len(row),), PAD)
        real = torch.ones(len(row), dtype=torch.long)
        parts = [pad, row] if padding == "left" else [row, pad]
        masks = [pad * 0, real] if padding == "left" else [real, pad * 0]
        ids.append(torch.cat(parts))
        mask.append(torch.cat(masks))
    batch = {"input_ids": torch.stack(ids), "attention_mask": torch.stack(mask)}
    images = sum(layout.count("i") for layout in layouts)
    if images:
        batch["pixel_values"] = torch.randn(images, 3, 42, 42, generator=generator)
    return batch


def hash_layout(layout: str) -> int:
    """A number for a layout that does not change between processes."""
    return sum((place + 1) * ord(part) for place, part in enumerate(layout))
