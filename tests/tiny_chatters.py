"""Tiny random models of other families with processors: Qwen2.5-VL, InternVL, LLaVA-NeXT."""

from typing import Any

import torch
from tiny_models import IMAGE_TOKEN, PAD
from tiny_probe import TEMPLATE, tiny_tokenizer
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lvlm_prune.loading import Loaded
from lvlm_prune.processors import image_only

START, END, VIDEO = 91, 92, 93
LLM = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 1024,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TILE = {"height": 32, "width": 32}


def _random(model: Any, seed: int) -> Any:
    """Weights that make answers depend on every token, and no special tokens among them."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.pad_token_id = PAD
    model.generation_config.suppress_tokens = [IMAGE_TOKEN, START, END, VIDEO, 1, 2]
    model.generation_config.eos_token_id = None
    return model.eval()


def tiny_qwen() -> Loaded:
    """Qwen2.5-VL: windows in two of four layers, any image size, 8 x 8 pixels a token."""
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 24,
        "fullatt_block_indexes": [1, 3],
        "out_hidden_size": 32,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = Qwen2_5_VLConfig(
        text_config=LLM | {"rope_parameters": rope},
        vision_config=vision,
        image_token_id=IMAGE_TOKEN,
        vision_start_token_id=START,
        vision_end_token_id=END,
        video_token_id=VIDEO,
        pad_token_id=PAD,
    )
    names = {"<|image_pad|>": IMAGE_TOKEN, "<|vision_start|>": START, "<|vision_end|>": END}
    names["<|video_pad|>"] = VIDEO
    processor = image_only(Qwen2_5_VLProcessor)(
        image_processor=Qwen2VLImageProcessorPil(
            size={"shortest_edge": 24**2, "longest_edge": 72**2},
            patch_size=4,
            merge_size=2,
            temporal_patch_size=2,
        ),
        tokenizer=tiny_tokenizer(names),
        chat_template=TEMPLATE.replace("<image>", "<|vision_start|> <|image_pad|> <|vision_end|>"),
    )
    return Loaded(_random(Qwen2_5_VLForConditionalGeneration(config), 1), processor, "tiny-qwen")


def tiny_internvl() -> Loaded:
    """InternVL: tiles of 32 pixels with 16 tokens each, as many as an image needs, a thumbnail."""
    vision = InternVLVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=(32, 32),
        patch_size=(4, 4),
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=Qwen2Config(**LLM),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=16,
        pad_token_id=PAD,
    )
    parts = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<context>",
        "video_token": "<video>",
    }
    ids = dict(zip(parts.values(), (START, END, IMAGE_TOKEN, VIDEO), strict=True))
    processor = image_only(InternVLProcessor)(
        image_processor=GotOcr2ImageProcessorPil(
            size=TILE, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=tiny_tokenizer(ids, parts),
        image_seq_length=16,
        chat_template=TEMPLATE.replace("<image>", "<context>"),
    )
    return Loaded(_random(InternVLForConditionalGeneration(config), 2), processor, "tiny-internvl")


def tiny_next() -> Loaded:
    """LLaVA-NeXT: tiles of 32 pixels with 16 tokens each."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    pinpoints = [[32, 64], [64, 32], [64, 64]]
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=LlamaConfig(**LLM),
        image_token_id=IMAGE_TOKEN,
        image_grid_pinpoints=pinpoints,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_size=TILE, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tiny_tokenizer({"<image>": IMAGE_TOKEN}),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
        image_token="<image>",
    )
    return Loaded(_random(LlavaNextForConditionalGeneration(config), 3), processor, "tiny-next")
