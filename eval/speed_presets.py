"""Shapes of the models that `lvlm-prune speed` makes, by name.

In: the name of a preset and a device. Out: a `SpeedPreset`. Shapes of `llava-1.5-7b`,
`llava-next-7b` and `qwen2.5-vl-7b` are those of the checkpoints llava-hf/llava-1.5-7b-hf,
llava-hf/llava-v1.6-vicuna-7b-hf and Qwen/Qwen2.5-VL-7B-Instruct. Knows no model class.
"""

from dataclasses import dataclass

import torch

from lvlm_prune.methods import METHODS

DEVICES = ("cpu", "cuda")
SOME = "cls,vtc_cls,visionzip,divprune"


@dataclass(frozen=True)
class Layers:
    """Shape of a stack of transformer layers."""

    depth: int
    width: int
    heads: int
    mlp: int


@dataclass(frozen=True)
class SpeedPreset:
    """Shapes of an encoder, an LLM and a prompt.

    Args:
        name: what `--preset` takes.
        vision: the encoder; its last layer but one is projected (its last one by Qwen-VL).
        llm: the LLM.
        kind: model type, `llava`, `llava_next` or `qwen2_5_vl`.
        encoder: `clip` or `siglip`, of LLaVA.
        vision_depth: encoder layers of the model that this one stands for; None for its own.
        kv_heads: key and value heads of the LLM; None for as many as heads.
        full_layers: encoder layers with full attention, of Qwen-VL.
        image_size: side of a square tile, pixels.
        patch_size: side of a patch, pixels.
        tiles: rows and columns of tiles beside the base tile, of LLaVA-NeXT.
        grid: rows and columns of visual tokens, of Qwen-VL.
        vocabulary: tokens; the placeholder is the first of the last 64, as in llava-1.5.
        text_tokens: prompt tokens besides the image.
        dtype: torch dtype by name.
        needs_gpu: refuse the CPU.
        measures: `answer` (whole calls of `generate`) or `selection` (what comes between encoder
            and LLM, as a share of a prefill whose time is scaled to `llm_depth`).
        llm_depth: LLM layers of the model that this one stands for.
        methods: those that are measured if none are named.
        keep: the budget if none is given.
    """

    name: str
    vision: Layers
    llm: Layers
    kind: str = "llava"
    encoder: str = "clip"
    vision_depth: int | None = None
    kv_heads: int | None = None
    full_layers: tuple[int, ...] = ()
    image_size: int = 336
    patch_size: int = 14
    tiles: tuple[int, int] = (0, 0)
    grid: tuple[int, int] = (0, 0)
    vocabulary: int = 32064
    text_tokens: int = 60
    dtype: str = "float32"
    needs_gpu: bool = False
    measures: str = "answer"
    llm_depth: int = 32
    methods: str = SOME
    keep: int = 64

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of the image that a method may choose."""
        if self.kind == "qwen2_5_vl":
            return self.grid[0] * self.grid[1]
        side = self.image_size // self.patch_size
        return side * side * (1 + self.tiles[0] * self.tiles[1])

    @property
    def placeholders(self) -> int:
        """The same with the newline tokens of LLaVA-NeXT, one a row of the joined tiles."""
        return self.visual_tokens + self.tiles[0] * (self.image_size // self.patch_size)

    def method_names(self) -> list[str]:
        """The methods that are measured if none are named."""
        if self.methods != "all":
            return self.methods.split(",")
        return [name for name, method in METHODS.items() if method.drops]

    @property
    def image_token(self) -> int:
        """Id of the placeholder token."""
        return self.vocabulary - 64


CLIP_L = Layers(24, 1024, 16, 4096)
SHALLOW_CLIP_L = Layers(4, 1024, 16, 4096)
LLAMA_7B = Layers(32, 4096, 32, 11008)
ONE_LAYER_7B = Layers(1, 4096, 32, 11008)
_ALL = (
    # CLIP-L/14-336 with 4 of its 24 layers, and an LLM that two cores can run in minutes.
    SpeedPreset("cpu", SHALLOW_CLIP_L, Layers(8, 1024, 16, 2752)),
    SpeedPreset(
        "selection-576",
        SHALLOW_CLIP_L,
        ONE_LAYER_7B,
        vocabulary=1024,
        measures="selection",
        methods="all",
    ),
    SpeedPreset(
        "selection-2880",
        SHALLOW_CLIP_L,
        ONE_LAYER_7B,
        kind="llava_next",
        tiles=(2, 2),
        vocabulary=1024,
        measures="selection",
        methods="all",
        keep=320,
    ),
    SpeedPreset("llava-1.5-7b", CLIP_L, LLAMA_7B, dtype="bfloat16", needs_gpu=True),
    SpeedPreset(
        "llava-next-7b",
        CLIP_L,
        LLAMA_7B,
        kind="llava_next",
        tiles=(2, 2),
        dtype="bfloat16",
        needs_gpu=True,
        keep=320,
    ),
    SpeedPreset(
        "qwen2.5-vl-7b",
        Layers(32, 1280, 16, 3420),
        Layers(28, 3584, 28, 18944),
        kind="qwen2_5_vl",
        kv_heads=4,
        full_layers=(7, 15, 23, 31),
        grid=(48, 60),
        vocabulary=152064,
        dtype="bfloat16",
        needs_gpu=True,
        keep=320,
    ),
    # Shows in seconds that the command works; its times mean nothing.
    SpeedPreset(
        "tiny",
        Layers(4, 32, 4, 64),
        Layers(3, 32, 4, 64),
        image_size=56,
        patch_size=7,
        vocabulary=256,
        text_tokens=10,
        keep=16,
    ),
)
PRESETS = {preset.name: preset for preset in _ALL}

_NO_LLM = Layers(1, 64, 4, 64)
# Encoders whose signals are timed. One of 8 layers of Qwen2.5-VL attends globally, as 4 of its 32.
SIGNAL_PRESETS = (
    SpeedPreset("CLIP-L/14-336", CLIP_L, _NO_LLM, vocabulary=1024),
    SpeedPreset(
        "SigLIP-so400m/14-384",
        Layers(27, 1152, 16, 4304),
        _NO_LLM,
        encoder="siglip",
        image_size=384,
        vocabulary=1024,
    ),
    SpeedPreset(
        "Qwen2.5-VL, 24x24 tokens",
        Layers(8, 1280, 16, 3420),
        _NO_LLM,
        kind="qwen2_5_vl",
        vision_depth=32,
        full_layers=(7,),
        grid=(24, 24),
        vocabulary=1024,
    ),
)


def preset_named(name: str, device: str) -> SpeedPreset:
    """Look a preset up and check that the device can run it.

    Args:
        name: name of the preset.
        device: torch device, `cpu`, `cuda` or `cuda:1`.

    Raises:
        ValueError: no such preset or device, or a device that cannot hold the model; the message
            says what can be run instead.
    """
    if name not in PRESETS:
        raise ValueError(
            f"unknown preset {name!r}; known: {', '.join(PRESETS)}, signals, and those of "
            "--reweight and --layers"
        )
    check_device(device)
    if PRESETS[name].needs_gpu and device == "cpu":
        raise ValueError(
            f"preset {name!r} has its true shape and is meant for a GPU; add --device cuda, or use "
            "--preset cpu"
        )
    return PRESETS[name]


def check_device(device: str) -> None:
    """Refuse devices that are not there.

    Raises:
        ValueError: not a CPU or a GPU of torch.
    """
    kind = device.split(":")[0]
    if kind not in DEVICES:
        raise ValueError(f"device must be cpu, cuda or cuda:NUMBER, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for but torch finds no GPU; use --device cpu")
