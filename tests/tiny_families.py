"""Tiny random models of every family, and prompts with images and videos of several sizes for them.

A layout is a string of `t` (three text tokens), `i` (an image) and `v` (a video); images of a batch
take turns in size. `FAMILIES[name].model("sdpa")`, `FAMILIES[name].prompts("tit", "ttvi")`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import transformers
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, SiglipVisionConfig

IMAGE, VIDEO, START, END, PAD = 90, 91, 92, 93, 0
SPECIAL = [IMAGE, VIDEO, START, END, 1, 2]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
TILES = [[28, 56], [56, 28], [56, 56], [84, 84]]
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
IMAGES_OF_QWEN = ((1, 8, 12), (1, 6, 4))
VIDEOS_OF_QWEN = ((3, 4, 6), (1, 4, 4))

Tensors = dict[str, Tensor]


def finished(model, seed: int):
    """Larger random weights, so that tokens differ, and settings for generation."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.pad_token_id = PAD
    # Random weights would emit placeholders and end early.
    model.generation_config.suppress_tokens = SPECIAL
    model.generation_config.eos_token_id = None
    return model.eval()


def built(name: str, config, attention: str, seed: int = 0):
    """A model of a class of transformers."""
    config._attn_implementation = attention
    torch.manual_seed(seed)
    return finished(
        getattr(transformers, name)._from_config(config, attn_implementation=attention), seed
    )


def llava(attention: str):
    """LLaVA-1.5: 16 tokens an image."""
    config = transformers.LlavaConfig(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        vision_feature_layer=-2,
    )
    return built("LlavaForConditionalGeneration", config, attention)


def llava_next(attention: str):
    """LLaVA-NeXT: tiles of 16 tokens."""
    config = transformers.LlavaNextConfig(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        image_grid_pinpoints=TILES,
        vision_feature_layer=-2,
    )
    return built("LlavaNextForConditionalGeneration", config, attention)


def llava_onevision(attention: str):
    """LLaVA-OneVision: SigLIP, tiles of 16 tokens, pictures of more than 4 tiles are shrunk."""
    config = transformers.LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**CLIP, vision_use_head=False),
        text_config=transformers.Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=TILES,
        vision_aspect_ratio="anyres_max_4",
        vision_feature_layer=-1,
    )
    return built("LlavaOnevisionForConditionalGeneration", config, attention)


def internvl(attention: str):
    """InternVL: tiles of 64 patches, 16 tokens."""
    vision = transformers.InternVLVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=[56, 56],
        patch_size=[7, 7],
    )
    config = transformers.InternVLConfig(
        vision_config=vision,
        text_config=transformers.Qwen2Config(**TEXT),
        image_token_id=IMAGE,
        downsample_ratio=0.5,
        image_seq_length=16,
    )
    return built("InternVLForConditionalGeneration", config, attention)


def qwen(kind: str, vision: dict, text: dict, attention: str):
    """A Qwen-VL of a kind such as `Qwen2_5_VL`."""
    vision = {
        "depth": 4,
        "num_heads": 4,
        "patch_size": 7,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        **vision,
    }
    tokens = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
    }
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, text_config={**TEXT, "rope_parameters": MROPE, **text}, **tokens
    )
    name = f"{kind.removesuffix('Moe')}{'Moe' if kind.endswith('Moe') else ''}"
    return built(f"{name}ForConditionalGeneration", config, attention)


QWEN2 = {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
QWEN25 = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 32,
    "window_size": 28,
    "fullatt_block_indexes": [1, 3],
    "tokens_per_second": 2,
}
QWEN3 = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 32,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 2],
}
EXPERTS = {
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
}
LINEAR = {
    "head_dim": 16,
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "rope_parameters": {**MROPE, "partial_rotary_factor": 0.5},
}


@dataclass(frozen=True)
class Item:
    """An image or a video of a prompt: its columns, what the model gets, and its placeholders."""

    ids: list[int]
    tensors: Tensors
    placeholder: int


def clip_image(model, place: int, generator: torch.Generator) -> Item:
    """An image of one size."""
    pixels = torch.randn(1, 3, 28, 28, generator=generator)
    return Item([IMAGE] * 16, {"pixel_values": pixels}, IMAGE)


def tiled_image(model, place: int, generator: torch.Generator) -> Item:
    """An image of one of three shapes, padded to the same number of tiles."""
    height, width = ((40, 56), (84, 80), (20, 28))[place % 3]
    size = torch.tensor([[height, width]])
    tiles = 10
    pixels = torch.zeros(1, tiles, 3, 28, 28)
    grid = transformers.models.llava_next.modeling_llava_next.image_size_to_num_patches(
        size[0], TILES, 28
    )
    pixels[0, :grid] = torch.randn(grid, 3, 28, 28, generator=generator)
    tensors = {"pixel_values": pixels, "image_sizes": size}
    with torch.no_grad():
        n = len(model.model.get_image_features(**tensors).pooler_output[0])
    return Item([IMAGE] * n, tensors, IMAGE)


def pooled_video(model, place: int, generator: torch.Generator) -> Item:
    """A video of three frames, 2 x 2 tokens each and a newline token."""
    pixels = torch.randn(1, 3, 3, 28, 28, generator=generator)
    return Item([VIDEO] * 13, {"pixel_values_videos": pixels}, VIDEO)


def internvl_image(model, place: int, generator: torch.Generator) -> Item:
    """An image of one or three tiles."""
    tiles = (1, 3)[place % 2]
    pixels = torch.randn(tiles, 3, 56, 56, generator=generator)
    return Item([START, *[IMAGE] * 16 * tiles, END], {"pixel_values": pixels}, IMAGE)


def qwen_image(model, place: int, generator: torch.Generator) -> Item:
    """An image of one of two grids."""
    t, h, w = IMAGES_OF_QWEN[place % 2]
    pixels = torch.randn(t * h * w, 3 * 2 * 7 * 7, generator=generator)
    tensors = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[t, h, w]])}
    return Item([START, *[IMAGE] * (t * h * w // 4), END], tensors, IMAGE)


def qwen_video(model, place: int, generator: torch.Generator) -> Item:
    """A video of three frame pairs, or of one; Qwen3 sets frames apart by text."""
    t, h, w = VIDEOS_OF_QWEN[place % 2]
    pixels = torch.randn(t * h * w, 3 * 2 * 7 * 7, generator=generator)
    tensors = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[t, h, w]])}
    if "3" in model.config.model_type:
        ids = [n for i in range(t) for n in (50 + i, START, *[VIDEO] * (h * w // 4), END)]
    else:
        ids = [START, *[VIDEO] * (t * h * w // 4), END]
    return Item(ids, tensors, VIDEO)


@dataclass(frozen=True)
class Family:
    """A tiny family.

    Args:
        build: the model, given an attention implementation.
        image: an image for a prompt.
        video: a video for a prompt, or None.
        mrope: whether prompts need token types.
        masks: whether masking equals removal (not in recurrent layers).
    """

    build: Callable
    image: Callable
    video: Callable | None = None
    mrope: bool = False
    masks: bool = True

    @property
    def tolerance(self) -> float:
        """Largest difference of logits; recurrent layers are computed in chunks."""
        return 1e-5 if self.masks else 1e-4

    def model(self, attention: str = "sdpa"):
        """The model, shared by all tests: a test that changes it takes a copy."""
        return cached_model(self, attention)

    def prompts(self, *layouts: str, seed: int = 1, padding: str = "left") -> Tensors:
        """A padded batch."""
        model = self.model()
        tensors: dict[str, list[Tensor]] = {}
        rows, seen = [], {"i": 0, "v": 0}
        for layout in layouts:
            row = [1]
            for place, part in enumerate(layout):
                # Text depends on the row alone, so that it is the same alone and in a batch.
                own = torch.Generator().manual_seed(seed * 10007 + len(layout) * 101 + place)
                if part == "t":
                    row += torch.randint(3, 50, (3,), generator=own).tolist()
                    continue
                own = torch.Generator().manual_seed(seed * 31 + seen[part] + 7 * (part == "v"))
                make = self.image if part == "i" else self.video
                item = make(model, seen[part], own)
                seen[part] += 1
                row += item.ids
                for name, value in item.tensors.items():
                    tensors.setdefault(name, []).append(value)
            rows.append(row)
        batch = padded(rows, padding)
        batch |= {name: torch.cat(values) for name, values in tensors.items()}
        if self.mrope:
            ids = batch["input_ids"]
            batch["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
        return batch


@cache
def cached_model(family: Family, attention: str):
    """One model for each family and attention implementation."""
    return family.build(attention)


def padded(rows: list[list[int]], padding: str) -> Tensors:
    """Rows of ids as a padded batch with its mask."""
    longest = max(len(row) for row in rows)
    ids, mask = [], []
    for row in rows:
        pad = [PAD] * (longest - len(row))
        ids.append(pad + row if padding == "left" else row + pad)
        real = [1] * len(row)
        mask.append([0] * len(pad) + real if padding == "left" else real + [0] * len(pad))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def of_qwen(kind: str, vision: dict, text: dict | None = None, masks: bool = True) -> Family:
    """A Qwen-VL family."""
    return Family(
        lambda attention: qwen(kind, vision, text or {}, attention),
        qwen_image,
        qwen_video,
        mrope=True,
        masks=masks,
    )


FAMILIES: dict[str, Family] = {
    "llava": Family(llava, clip_image),
    "llava_next": Family(llava_next, tiled_image),
    "llava_onevision": Family(llava_onevision, tiled_image, pooled_video),
    "qwen2_vl": of_qwen("Qwen2VL", QWEN2),
    "qwen2_5_vl": of_qwen("Qwen2_5_VL", QWEN25),
    "qwen3_vl": of_qwen("Qwen3VL", QWEN3),
    "qwen3_vl_moe": of_qwen("Qwen3VLMoe", QWEN3, EXPERTS),
    "qwen3_5": of_qwen("Qwen3_5", QWEN3, LINEAR, masks=False),
    "internvl": Family(internvl, internvl_image),
}
