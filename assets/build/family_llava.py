"""The small LLaVA: configs and processor in the exact Hugging Face architecture.

In: nothing. Out: `FAMILY` with an untrained `LlavaForConditionalGeneration` (CLIPVisionModel with
CLS token, 112 px, patch 8 -> 196 visual tokens; two-layer projector; Llama with tied embeddings)
and its `LlavaProcessor`. It knows nothing of training.
"""

from __future__ import annotations

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
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

PATCH_SIZE = 8


def config() -> LlavaConfig:
    """The whole model; visual features come from the last but one layer, CLS dropped."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(words_of()),
        hidden_size=LLM_WIDTH,
        intermediate_size=LLM_MLP,
        num_hidden_layers=LLM_LAYERS,
        num_attention_heads=LLM_HEADS,
        num_key_value_heads=LLM_HEADS,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=VISUAL_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def build_processor() -> LlavaProcessor:
    """Tokenizer, torchvision-free image processor and chat template in one."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>"),
        image_token="<image>",
    )


def build_model() -> LlavaForConditionalGeneration:
    """The untrained model in float32 with SDPA attention."""
    model = LlavaForConditionalGeneration(config())
    model.generation_config.update(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, max_new_tokens=16, do_sample=False
    )
    return model


def encode(model: LlavaForConditionalGeneration, images: Tensor) -> Encoded:
    """Patch features of the last but one layer, and the pooled CLS of the last."""
    pixels = normalised(images, CLIP)
    out = model.model.vision_tower(pixels, output_hidden_states=True)
    tokens = out.hidden_states[-2][:, 1:]
    return Encoded(tokens, out.pooler_output, model.model.multi_modal_projector(tokens))


FAMILY = Family(
    name="llava",
    build_model=build_model,
    build_tokenizer=build_tokenizer,
    build_processor=build_processor,
    before="USER:",
    after="",
    axes=1,
    token_width=128,
    pooled_width=128,
    tower=lambda model: model.model.vision_tower,
    projector=lambda model: model.model.multi_modal_projector,
    output_layer=lambda model: model.model.multi_modal_projector.linear_2,
    video={},
    encode=encode,
)
