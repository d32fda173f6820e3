"""Tiny configs of classes that no family covers; a token id of 90 stands for a visual token."""

import transformers
from tiny_families import IMAGE, TEXT

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
MARKS = {
    "image_token_id": IMAGE,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}


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


def vipllava():
    """VipLLaVA: CLIP, rows of several layers."""
    return transformers.VipLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**{**VISION, "num_hidden_layers": 4}),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        vision_feature_layers=[-2, -3],
    )


def llava_next_video():
    """LLaVA-NeXT-Video: tiles and newline tokens."""
    return transformers.LlavaNextVideoConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        video_token_index=91,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )


def idefics2():
    """Idefics 2: 4 latents of a perceiver."""
    perceiver = {
        "hidden_size": 32,
        "resampler_n_latents": 4,
        "resampler_depth": 1,
        "resampler_n_heads": 4,
        "resampler_head_dim": 8,
        "num_key_value_heads": 2,
    }
    return transformers.Idefics2Config(
        vision_config={**VISION},
        text_config=transformers.MistralConfig(**TEXT),
        perceiver_config=perceiver,
        image_token_id=IMAGE,
    )


def janus():
    """Janus: a patch a token; its image generator is not used."""
    vision = {**VISION, "mlp_ratio": 2, "projection_dim": 32, "depth": 2, "num_image_tokens": 16}
    vision.pop("intermediate_size")
    generator = {
        "embed_dim": 8,
        "num_embeddings": 16,
        "latent_channels": 8,
        "base_channels": 32,
        "channel_multiplier": [1],
        "num_res_blocks": 1,
        "projection_dim": 32,
        "image_token_embed_dim": 32,
    }
    return transformers.JanusConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**TEXT),
        vq_config=generator,
        image_token_id=IMAGE,
    )


def deepseek_vl():
    """DeepSeek-VL: a SigLIP patch a token."""
    return transformers.DeepseekVLConfig(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_token_id=IMAGE,
    )


def aria():
    """Aria: 4 queries a tile, a mixture of experts."""
    experts = {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
    return transformers.AriaConfig(
        text_config=transformers.AriaTextConfig(**TEXT, **experts),
        vision_config=transformers.models.idefics3.Idefics3VisionConfig(**VISION),
        projector_patch_to_query_dict={16: 4},
        image_token_index=IMAGE,
    )


def lighton_ocr():
    """LightOnOCR: Pixtral, 2 x 2 patches merged."""
    return transformers.LightOnOcrConfig(
        text_config=transformers.Qwen3Config(**TEXT, head_dim=8),
        vision_config=transformers.PixtralVisionConfig(**VISION),
        spatial_merge_size=2,
        image_token_id=IMAGE,
    )


def lfm2_vl():
    """LFM2-VL with attention layers alone: its convolutions would see the short sequence."""
    layers = ["full_attention"] * 3
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    return transformers.Lfm2VlConfig(
        text_config=transformers.Lfm2Config(**TEXT, layer_types=layers),
        vision_config={
            "model_type": "siglip2_vision_model",
            "num_patches": 16,
            "vision_use_head": False,
            **vision,
        },
        image_token_id=IMAGE,
        downsample_factor=2,
        projector_hidden_size=64,
    )


def gemma4():
    """Gemma 4: patches with positions, pooled 2 x 2."""
    layers = {"layer_types": ["full_attention"] * 3, "num_kv_shared_layers": 0}
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    return transformers.Gemma4Config(
        text_config={
            **GEMMA,
            **layers,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 0,
        },
        vision_config={
            **vision,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "pooling_kernel_size": 2,
        },
        audio_config=None,
        image_token_id=IMAGE,
    )


def paddleocr_vl():
    """PaddleOCR-VL: M-RoPE, 2 x 2 patches merged."""
    return transformers.PaddleOCRVLConfig(
        text_config={**TEXT, "head_dim": 8, "rope_parameters": MROPE},
        vision_config={**VISION, "image_size": 56, "spatial_merge_size": 2},
        **MARKS,
    )


def video_llama_3():
    """VideoLLaMA 3: images of any size, a patch a token."""
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    return transformers.VideoLlama3Config(
        text_config={**TEXT, "model_type": "qwen2"},
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=91,
    )


def ernie4_5_vl_moe():
    """ERNIE 4.5 VL: M-RoPE, a mixture of experts."""
    text = {
        **TEXT,
        "moe_intermediate_size": [32, 32],
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "rope_parameters": {**MROPE, "mrope_section": [1, 1, 2]},
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": 7,
        "spatial_merge_size": 2,
        "temporal_merge_size": 2,
    }
    return transformers.Ernie4_5_VLMoeConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE
    )
