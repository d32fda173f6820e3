"""Configs, tokenizer and processor of the small LLaVA, in the exact Hugging Face architecture.

In: nothing. Out: an untrained `LlavaForConditionalGeneration` (CLIPVisionModel with CLS token,
112 px, patch 8 -> 196 visual tokens; two-layer projector; Llama with tied embeddings) and its
`LlavaProcessor`. It knows nothing of training.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from words import vocabulary

PAD, BOS, EOS, UNK, IMAGE = range(5)
IMAGE_SIZE, PATCH_SIZE = 112, 8
VISUAL_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2

# LLaVA-1.5's template; plain strings are accepted as content too.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def vision_config() -> CLIPVisionConfig:
    """The vision encoder: width 128, 5 layers, 4 heads."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
        hidden_act="gelu",
    )


def llava_config() -> LlavaConfig:
    """The whole model; visual features come from the last but one layer, CLS dropped."""
    text = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlavaConfig(
        vision_config=vision_config(),
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


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level, lower-casing tokenizer with left padding; adds `<s>` at the front."""
    words = {word: i for i, word in enumerate(vocabulary())}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
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
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
    )


def build_model() -> LlavaForConditionalGeneration:
    """The untrained model in float32 with SDPA attention."""
    model = LlavaForConditionalGeneration(llava_config())
    model.generation_config.update(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, max_new_tokens=16, do_sample=False
    )
    return model
