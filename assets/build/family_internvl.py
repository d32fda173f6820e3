"""The small InternVL: configs and processor in the exact Hugging Face architecture.

In: nothing. Out: `FAMILY` with an untrained `InternVLForConditionalGeneration` (vision encoder with
CLS token, 112 px, patch 4, pixel shuffle of 2 x 2 patches -> 196 visual tokens; a projector of two
layers; Qwen2 with tied embeddings) and its `InternVLProcessor`, one tile an image. It knows nothing
of training.
"""

from __future__ import annotations

from functools import partial

import torch
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
from pixels import CLIP, normalised
from tokenizer import BOS, EOS, IMAGE, PAD, build_tokenizer, chat_template, words_of
from torch import Tensor, nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    Qwen2Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

WIDTH, HEADS, PATCH_SIZE = 128, 4, 4
GRID = IMAGE_SIZE // PATCH_SIZE
IMAGE_TOKEN = "<IMG_CONTEXT>"
ADDED = ("<img>", "</img>", "<video>")
# The processor looks for its special tokens under these names.
NAMED = {
    "start_image_token": ADDED[0],
    "end_image_token": ADDED[1],
    "context_image_token": IMAGE_TOKEN,
    "video_token": ADDED[2],
}


def config() -> InternVLConfig:
    """The whole model; visual features come from the last layer, CLS dropped."""
    ids = dict(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    vision = InternVLVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=5,
        num_attention_heads=HEADS,
        attention_bias=True,
        image_size=(IMAGE_SIZE, IMAGE_SIZE),
        patch_size=(PATCH_SIZE, PATCH_SIZE),
        layer_scale_init_value=1.0,
        layer_norm_eps=1e-5,
    )
    text = Qwen2Config(
        vocab_size=len(words_of()) + len(ADDED),
        hidden_size=LLM_WIDTH,
        intermediate_size=LLM_MLP,
        num_hidden_layers=LLM_LAYERS,
        num_attention_heads=LLM_HEADS,
        num_key_value_heads=LLM_HEADS,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        **ids,
    )
    return InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        image_seq_length=VISUAL_TOKENS,
        tie_word_embeddings=True,
        **ids,
    )


def build_processor() -> InternVLProcessor:
    """Tokenizer, torchvision-free image processor and chat template in one, for images only."""
    from lvlm_prune.processors import image_only

    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, min_patches=1, max_patches=1)
    return image_only(InternVLProcessor)(
        image_processor=images,
        tokenizer=build_tokenizer(IMAGE_TOKEN, ADDED, NAMED),
        image_seq_length=VISUAL_TOKENS,
        chat_template=chat_template(IMAGE_TOKEN),
    )


def _sines() -> Tensor:
    """Position embeddings to start from: sines of row and column, zero for the CLS, [785, D]."""
    steps = torch.arange(GRID).float()
    angles = steps[:, None] * torch.logspace(0, -1.5, WIDTH // 4)
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    rows = waves[:, None].expand(-1, GRID, -1)
    columns = waves[None].expand(GRID, -1, -1)
    return torch.cat([torch.zeros(1, WIDTH), torch.cat([rows, columns], -1).flatten(0, 1)])


def build_model() -> InternVLForConditionalGeneration:
    """The untrained model in float32 with SDPA attention."""
    model = InternVLForConditionalGeneration(config())
    model.generation_config.update(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, max_new_tokens=16, do_sample=False
    )
    embeddings = model.model.vision_tower.embeddings
    nn.init.normal_(embeddings.patch_embeddings.projection.weight, std=0.07)
    embeddings.position_embeddings.data.copy_(0.5 * _sines())
    nn.init.normal_(embeddings.cls_token, std=0.5)
    return model


def encode(model: InternVLForConditionalGeneration, images: Tensor) -> Encoded:
    """Groups of four patches of the last layer, and its CLS."""
    inner = model.model
    out = inner.vision_tower(normalised(images, CLIP)).last_hidden_state
    grid = out[:, 1:].reshape(len(images), GRID, GRID, WIDTH)
    tokens = inner.pixel_shuffle(grid, scale_factor=inner.config.downsample_ratio).flatten(1, 2)
    return Encoded(tokens, out[:, 0], inner.multi_modal_projector(tokens))


FAMILY = Family(
    name="internvl",
    build_model=build_model,
    build_tokenizer=partial(build_tokenizer, IMAGE_TOKEN, ADDED, NAMED),
    build_processor=build_processor,
    before="USER: <img>",
    after="</img>",
    axes=1,
    token_width=4 * WIDTH,
    pooled_width=WIDTH,
    tower=lambda model: model.model.vision_tower,
    projector=lambda model: model.model.multi_modal_projector,
    output_layer=lambda model: model.model.multi_modal_projector.linear_2,
    video={
        "video_processor_type": "InternVLVideoProcessor",
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    },
    encode=encode,
)
