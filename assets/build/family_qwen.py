"""The small Qwen2.5-VL: configs and processor in the exact Hugging Face architecture.

In: nothing. Out: `FAMILY` with an untrained `Qwen2_5_VLForConditionalGeneration` (rotary vision
encoder without CLS, 112 px, patch 4, four windows of 14 x 14 patches in all but two layers, 2 x 2
merger -> 196 visual tokens; M-RoPE; Qwen2.5 with tied embeddings) and its `Qwen2_5_VLProcessor`. It
knows nothing of training.
"""

from __future__ import annotations

from functools import partial

import torch
from attention import Attend
from families import (
    IMAGE_SIZE,
    LLM_HEADS,
    LLM_LAYERS,
    LLM_MLP,
    LLM_WIDTH,
    VISUAL_TOKENS,
    Encoded,
    Family,
)
from pixels import CLIP, flat_patches, normalised
from tokenizer import BOS, EOS, IMAGE, PAD, build_tokenizer, chat_template, words_of
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

WIDTH, HEADS, PATCH_SIZE, MERGE, FRAMES = 96, 3, 4, 2, 2
GRID = IMAGE_SIZE // PATCH_SIZE
WINDOW = IMAGE_SIZE // 2
IMAGE_TOKEN = "<|image_pad|>"
ADDED = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")


def config() -> Qwen2_5_VLConfig:
    """The whole model.

    The real sections of M-RoPE leave columns to frequencies too low for 14 columns and width 32 a
    head; this split gives rows and columns a visible angle.
    """
    first = len(words_of())
    ids = dict(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 4, 10]}
    text = {
        "vocab_size": first + len(ADDED),
        "hidden_size": LLM_WIDTH,
        "intermediate_size": LLM_MLP,
        "num_hidden_layers": LLM_LAYERS,
        "num_attention_heads": LLM_HEADS,
        "num_key_value_heads": LLM_HEADS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_parameters": rope,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 5,
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_heads": HEADS,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "window_size": WINDOW,
        "fullatt_block_indexes": [2, 4],
        "out_hidden_size": LLM_WIDTH,
    }
    return Qwen2_5_VLConfig(
        text_config=text | ids,
        vision_config=vision,
        image_token_id=IMAGE,
        vision_start_token_id=first,
        vision_end_token_id=first + 1,
        video_token_id=first + 2,
        tie_word_embeddings=True,
        **ids,
    )


def build_processor() -> Qwen2_5_VLProcessor:
    """Tokenizer, torchvision-free image processor and chat template in one, for images only."""
    from lvlm_prune.processors import image_only

    pixels = {"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2}
    images = Qwen2VLImageProcessorPil(
        size=pixels, patch_size=PATCH_SIZE, merge_size=MERGE, temporal_patch_size=FRAMES
    )
    return image_only(Qwen2_5_VLProcessor)(
        image_processor=images,
        tokenizer=build_tokenizer(IMAGE_TOKEN, ADDED),
        chat_template=chat_template(f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>"),
    )


def build_model() -> Qwen2_5_VLForConditionalGeneration:
    """The untrained model in float32 with SDPA attention."""
    model = Qwen2_5_VLForConditionalGeneration(config())
    model.generation_config.update(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, max_new_tokens=16, do_sample=False
    )
    nn.init.normal_(model.model.visual.patch_embed.proj.weight, std=0.05)
    return model


def _attended(block: nn.Module, rows: Tensor, angles: tuple[Tensor, Tensor], part: int) -> Tensor:
    """One block on [B, 784, D] rows in window order, attending within runs of `part` rows."""
    size, length, width = rows.shape
    attention = block.attn
    shape = (size, length, 3, attention.num_heads, attention.head_dim)
    query, key, value = attention.qkv(block.norm1(rows)).view(shape).unbind(2)
    query, key = (x * angles[0] + rotate_half(x) * angles[1] for x in (query, key))
    runs = (size * length // part, part, attention.num_heads, attention.head_dim)
    query, key, value = (x.reshape(runs).transpose(1, 2) for x in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        query, key = (query * attention.scaling).to(value.dtype), key.to(value.dtype)
        mixed = Attend.apply(query, key, value, None)
    rows = rows + attention.proj(mixed.transpose(1, 2).reshape(size, length, width))
    return rows + block.mlp(block.norm2(rows))


def encode(model: Qwen2_5_VLForConditionalGeneration, images: Tensor) -> Encoded:
    """The vision encoder on a batch of equal images, whose windows are equal too.

    Transformers' own forward runs window after window, which is slow for many small images.
    """
    visual = model.model.visual
    grid = torch.tensor([[1, GRID, GRID]])
    order, _ = get_vision_window_index(grid, MERGE, WINDOW, PATCH_SIZE)
    rows = (order[:, None] * MERGE**2 + torch.arange(MERGE**2)).flatten()
    patches = flat_patches(normalised(images, CLIP), PATCH_SIZE, MERGE, FRAMES)[:, rows]
    weight = visual.patch_embed.proj.weight
    hidden = patches @ weight.flatten(1).T
    angles = visual.rotary_pos_emb(hidden, get_vision_position_ids(grid, MERGE))
    angles = tuple(angle[rows, None].to(hidden.dtype) for angle in angles)
    for i, block in enumerate(visual.blocks):
        whole = i in visual.fullatt_block_indexes
        part = GRID**2 if whole else (WINDOW // PATCH_SIZE) ** 2
        hidden = _attended(block, hidden, angles, part)
    tokens = visual.merger.ln_q(hidden).view(len(images), VISUAL_TOKENS, -1)[:, order.argsort()]
    return Encoded(tokens, None, visual.merger.mlp(tokens))


FAMILY = Family(
    name="qwen",
    build_model=build_model,
    build_tokenizer=partial(build_tokenizer, IMAGE_TOKEN, ADDED),
    build_processor=build_processor,
    before="USER: <|vision_start|>",
    after="<|vision_end|>",
    axes=3,
    token_width=WIDTH * MERGE**2,
    pooled_width=0,
    tower=lambda model: model.model.visual,
    projector=lambda model: model.model.visual.merger,
    output_layer=lambda model: model.model.visual.merger.mlp[2],
    video={
        "video_processor_type": "Qwen2VLVideoProcessor",
        "size": {"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2},
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE,
        "temporal_patch_size": FRAMES,
    },
    encode=encode,
)
