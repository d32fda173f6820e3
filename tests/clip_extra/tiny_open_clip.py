"""Tiny random open_clip models, and the same weights as a transformers CLIP model."""

from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

VISION = {"layers": 4, "width": 32, "head_width": 8, "patch_size": 7, "image_size": 42}
TEXT = {"context_length": 77, "width": 16, "heads": 2, "layers": 2}
VOCABULARY = 49408


def tiny_open_clip(quick_gelu: bool = False, **vision: Any) -> Any:
    """open_clip's `CLIP`: a ViT of 36 patches, 4 layers x 32, and a text tower of 2 x 16."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    clip = CLIP(
        16,
        CLIPVisionCfg(**{"mlp_ratio": 2.0, **VISION, **vision}),
        CLIPTextCfg(vocab_size=VOCABULARY, **TEXT),
        quick_gelu=quick_gelu,
    )
    for parameter in clip.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for module in clip.modules():
        # Not 1 and 0, so that a LayerNorm left out or taken from another place shows.
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, mean=1.0, std=0.2)
    return clip.eval()


def as_transformers(clip: Any) -> CLIPModel:
    """The same model as transformers' `CLIPModel`."""
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
    text = {**layers, "hidden_size": 16, "intermediate_size": 64, "vocab_size": VOCABULARY}
    vision = {**layers, "hidden_size": 32, "intermediate_size": 64, "image_size": 42}
    vision |= {"patch_size": 7, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={**text, "eos_token_id": VOCABULARY - 1},
        vision_config=vision,
        projection_dim=16,
    )
    model = CLIPModel(config).eval()
    own, other = clip.state_dict(), model.state_dict()
    renamed = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        **_norms("visual.ln_pre", "vision_model.pre_layrnorm"),
        **_norms("visual.ln_post", "vision_model.post_layernorm"),
        **_norms("ln_final", "text_model.final_layer_norm"),
    }
    weights = {new: own[old] for old, new in renamed.items()}
    weights["visual_projection.weight"] = own["visual.proj"].T
    weights["text_projection.weight"] = own["text_projection"].T
    for tower, prefix, depth in (("visual.", "vision_model", 4), ("", "text_model", 2)):
        for number in range(depth):
            block = f"{tower}transformer.resblocks.{number}"
            weights |= _layer(own, block, f"{prefix}.encoder.layers.{number}")
    # The rest is the scale of the logits and the position indices.
    rest = {name for name in other if name not in weights}
    assert all("position_ids" in name or name == "logit_scale" for name in rest), rest
    model.load_state_dict({**{name: other[name] for name in rest}, **weights})
    return model


def _norms(old: str, new: str) -> dict[str, str]:
    """Names of a module's weight and bias."""
    return {f"{old}.{name}": f"{new}.{name}" for name in ("weight", "bias")}


def _layer(own: dict, block: str, layer: str) -> dict[str, torch.Tensor]:
    """One block's weights under transformers' names."""
    weights = {}
    for kind in ("weight", "bias"):
        parts = own[f"{block}.attn.in_proj_{kind}"].chunk(3)
        for name, part in zip("qkv", parts, strict=True):
            weights[f"{layer}.self_attn.{name}_proj.{kind}"] = part
    modules = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for old, new in modules.items():
        for kind in ("weight", "bias"):
            weights[f"{layer}.{new}.{kind}"] = own[f"{block}.{old}.{kind}"]
    return weights
