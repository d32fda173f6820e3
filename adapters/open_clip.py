"""open_clip vision encoders in LLaVA: the same weights behind the attention interface.

open_clip's `VisionTransformer` attends through `nn.MultiheadAttention`, which shows no query or key
and answers unlike a transformers encoder. `OpenClipTower` holds the same parameters under the same
names (its state dict is that of `clip.visual`), sends query, key and value through
`ALL_ATTENTION_FUNCTIONS`, returns hidden states and has its layers where `CLIPVisionModel` has
them, so that LLaVA calls it, and the adapter and the taps read it, as they do a CLIP encoder of
transformers. In: pixels `[I, 3, height, width]`. Out: `hidden_states` of `[I, N + 1, d]`, CLS
first; entry k enters block k, before `ln_post`.

    clip = open_clip.create_model("ViT-L-14-336-quickgelu", pretrained="openai")
    use_open_clip(model, clip.visual)

The encoder is read, never edited, and open_clip itself is imported only to check its class.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear
from transformers import CLIPVisionConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# The tap looks for a module's eager attention in the file of its class.
from transformers.models.clip.modeling_clip import eager_attention_forward

from lvlm_prune.errors import UnsupportedModelError

MODEL_TYPES = ("llava", "llava_next")


class OpenClipAttention(nn.Module):
    """The weights of an `nn.MultiheadAttention`, used as self-attention `[I, T, d]`."""

    is_causal = False

    def __init__(self, attention: nn.MultiheadAttention, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.heads = attention.num_heads
        self.scaling = attention.head_dim**-0.5
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, hidden: Tensor, **kwargs: Any) -> Tensor:
        """Attend every token to every token."""
        projected = linear(hidden, self.in_proj_weight, self.in_proj_bias)
        heads = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, _ = attend(self, query, key, value, None, scaling=self.scaling, **kwargs)
        return self.out_proj(output.flatten(2))


class OpenClipLayer(nn.Module):
    """The modules of a `ResidualAttentionBlock` around that attention."""

    def __init__(self, block: Any, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.ln_1, self.ls_1 = block.ln_1, block.ls_1
        self.attn = OpenClipAttention(block.attn, config)
        self.ln_2, self.mlp, self.ls_2 = block.ln_2, block.mlp, block.ls_2

    @property
    def self_attn(self) -> OpenClipAttention:
        """The same as `CLIPEncoderLayer.self_attn`."""
        return self.attn

    def forward(self, hidden: Tensor, **kwargs: Any) -> Tensor:
        """Self-attention and MLP, each behind a LayerNorm, `[I, T, d]`."""
        hidden = hidden + self.ls_1(self.attn(self.ln_1(hidden), **kwargs))
        return hidden + self.ls_2(self.mlp(self.ln_2(hidden)))


class OpenClipBlocks(nn.Module):
    """The layers of an encoder, under open_clip's name and under that of transformers."""

    def __init__(self, blocks: Iterable[Any], config: CLIPVisionConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([OpenClipLayer(block, config) for block in blocks])

    @property
    def layers(self) -> nn.ModuleList:
        """The same as `CLIPVisionModel.encoder.layers`, without a second name in state dicts."""
        return self.resblocks


class OpenClipTower(nn.Module):
    """An open_clip `VisionTransformer` that answers like `CLIPVisionModel`.

    The parameters are shared with the encoder that it was made from. Patch dropout is left out:
    each placeholder token of a prompt needs its patch, in training as well.

    Args:
        visual: the encoder, `clip.visual`.
        attention: attention implementation of transformers: sdpa, eager or a flash one.
    """

    def __init__(self, visual: Any, attention: str = "sdpa") -> None:
        super().__init__()
        _check_visual(visual)
        self.config: Any = _vision_config(visual, attention)
        self.conv1 = visual.conv1
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.ln_pre = visual.ln_pre
        self.transformer = OpenClipBlocks(visual.transformer.resblocks, self.config)
        self.ln_post = visual.ln_post
        self.proj = visual.proj

    @property
    def encoder(self) -> OpenClipBlocks:
        """The same as `CLIPVisionModel.encoder`."""
        return self.transformer

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | int | list[int] | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode images as `CLIPVisionModel.forward` does.

        Args:
            pixel_values: `[I, 3, height, width]`.
            output_hidden_states: all of them, or the indices of those wanted; others are None.
            interpolate_pos_encoding: accept images of another size than the encoder's.
            return_dict: has no effect, the output is always a ModelOutput.
            **kwargs: for the attention function.
        """
        blocks = self.transformer.resblocks
        wanted = _hidden_indices(output_hidden_states, len(blocks) + 1)
        hidden = self._embed(pixel_values, interpolate_pos_encoding)
        states: list[Any] = [hidden if 0 in wanted else None]
        for index, block in enumerate(blocks, start=1):
            hidden = block(hidden, **kwargs)
            states.append(hidden if index in wanted else None)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=self.ln_post(hidden[:, 0]),
            hidden_states=tuple(states) if wanted else None,
        )

    def _embed(self, pixels: Tensor, resize: bool) -> Tensor:
        """CLS token and patches with their positions, `[I, N + 1, d]`."""
        height, width = pixels.shape[-2:]
        side = self.config.image_size
        if not resize and (height, width) != (side, side):
            raise ValueError(
                f"images are {height} x {width}, the encoder takes {side} x {side}; resize them in "
                "the processor, or pass interpolate_pos_encoding=True"
            )
        patches = self.conv1(pixels.to(self.conv1.weight.dtype))
        grid = (patches.shape[2], patches.shape[3])
        rows = patches.flatten(2).transpose(1, 2)
        cls = self.class_embedding.to(rows.dtype).expand(rows.shape[0], 1, -1)
        return self.ln_pre(torch.cat([cls, rows], dim=1) + self._positions(grid).to(rows.dtype))

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings of a grid, `[h * w + 1, d]`, resized as CLIPVisionModel does."""
        side = self.config.image_size // self.config.patch_size
        table = self.positional_embedding
        if grid == (side, side):
            return table
        patches = table[1:].T.unflatten(1, (side, side)).unsqueeze(0)
        patches = interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([table[:1], patches[0].flatten(1).T])


def use_open_clip(model: Any, visual: Any) -> OpenClipTower:
    """Make an open_clip encoder the vision encoder of LLaVA-1.5 or LLaVA-NeXT, before `attach`.

    The encoder's parameters are shared and moved to the model's device and dtype;
    `model.config.vision_config` describes it afterwards. A folder that `save_pretrained` wrote
    gives back everything but the encoder: call this again after `from_pretrained`.

    Args:
        model: `LlavaForConditionalGeneration` or `LlavaNextForConditionalGeneration`, its
            projector as wide as the encoder.
        visual: open_clip's `VisionTransformer`, `clip.visual`.

    Returns:
        The new `model.model.vision_tower`.

    Raises:
        UnsupportedModelError: a model of another family, or an encoder of another kind.
        ValueError: a projector of another width.
        ImportError: open_clip is not installed.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in MODEL_TYPES:
        raise UnsupportedModelError(
            f"open_clip encoders go into models of type {' and '.join(MODEL_TYPES)}, "
            f"got {type(model).__name__}"
        )
    tower = OpenClipTower(visual, model.config.vision_config._attn_implementation)
    layers = model.config.vision_feature_layer
    width = tower.config.hidden_size * (1 if isinstance(layers, int) else len(layers))
    expected = model.model.multi_modal_projector.linear_1.in_features
    if width != expected:
        raise ValueError(
            f"the encoder's rows are {width} wide and the projector takes {expected}; build the "
            f"model with vision_config.hidden_size={tower.config.hidden_size}"
        )
    tower.to(device=model.device, dtype=model.dtype).train(model.training)
    model.model.vision_tower = tower
    model.config.vision_config = tower.config
    return tower


def _check_visual(visual: Any) -> None:
    """Raise for encoders whose blocks, image or tokens are not those of a plain CLIP ViT."""
    try:
        from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
    except ImportError as error:
        raise ImportError(
            "open_clip vision encoders need the clip extra: pip install 'lvlm-prune[clip]'"
        ) from error
    if not isinstance(visual, VisionTransformer):
        raise UnsupportedModelError(
            f"{type(visual).__name__} is not open_clip's VisionTransformer (timm and ResNet "
            "encoders are not supported); pass clip.visual of a ViT model such as ViT-L-14-336"
        )
    others = {type(block) for block in visual.transformer.resblocks} - {ResidualAttentionBlock}
    if others or getattr(visual, "attn_pool", None) is not None:
        found = ", ".join(sorted(kind.__name__ for kind in others)) or "attentional pooling"
        raise UnsupportedModelError(
            f"open_clip encoder with {found}; supported: blocks of ResidualAttentionBlock, no "
            "attentional pooling"
        )
    if len({*_pair(visual.image_size)}) > 1 or len({*_pair(visual.patch_size)}) > 1:
        raise UnsupportedModelError(
            f"open_clip encoder of {visual.image_size} images in {visual.patch_size} patches; "
            "supported: square images and patches"
        )


def _vision_config(visual: Any, attention: str) -> CLIPVisionConfig:
    """What the adapter, the processor and the attention functions read of an encoder."""
    block = visual.transformer.resblocks[0]
    quick = type(block.mlp.gelu).__name__ == "QuickGELU"
    config = CLIPVisionConfig(
        hidden_size=visual.conv1.out_channels,
        intermediate_size=block.mlp.c_fc.out_features,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=block.attn.num_heads,
        image_size=_pair(visual.image_size)[0],
        patch_size=_pair(visual.patch_size)[0],
        projection_dim=visual.output_dim,
        hidden_act="quick_gelu" if quick else "gelu",
    )
    config._attn_implementation = attention
    return config


def _pair(size: int | Iterable[int]) -> tuple[int, ...]:
    """Height and width of a size."""
    return (size, size) if isinstance(size, int) else tuple(size)


def _hidden_indices(wanted: bool | int | list[int] | None, count: int) -> set[int]:
    """Non-negative indices of the hidden states to keep; those out of range keep nothing."""
    if wanted is None or wanted is False:
        return set()
    if wanted is True:
        return set(range(count))
    indices = [wanted] if isinstance(wanted, int) else wanted
    return {index % count for index in indices if -count <= index < count}
