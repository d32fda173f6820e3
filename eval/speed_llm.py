"""LLMs of stated shapes whose inside is timed, and one prompt whose image is encoded already.

In: the name of a preset. Out: its cases, and for each a model with random weights and a prompt:
half of the text, the visual tokens, the other half. Features are random too; every 64th visual
token and the first text token are planted as LLM sinks, 30 times as long as the others, which the
norm rule of `llm_sinks` finds. The vision encoder never runs.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lvlm_prune.eval.speed_models import build_model
from lvlm_prune.eval.speed_presets import Layers, SpeedPreset, check_device
from lvlm_prune.llm_sinks import SinkRule

EVERY = 64  # one of so many visual tokens is a sink
LENGTH = 30.0  # of a sink, in lengths of the others
# A model of one layer has its sinks there; in a trained LLM none exist before layer 2.
RULE = SinkRule(first_layer=0)
_NO_ENCODER = Layers(1, 64, 4, 64)


@dataclass(frozen=True)
class Case:
    """One LLM and one prompt length.

    Args:
        name: what the table calls it.
        llm: its shape.
        visual: visual tokens N.
        text: text tokens; half of them, rounded up, stand behind the image.
        kv_heads: key and value heads; None for as many as heads.
        dtype: torch dtype by name.
        every_layer: edit all layers, whatever a reweighter would choose of so few.
        stage: layer before which visual tokens are dropped.
        keep: visual tokens that go on.
    """

    name: str
    llm: Layers
    visual: int
    text: int
    kv_heads: int | None = None
    dtype: str = "float32"
    every_layer: bool = True
    stage: int = 2
    keep: int = 64

    @property
    def tokens(self) -> int:
        """Prompt length T."""
        return self.visual + self.text

    @property
    def shapes(self) -> SpeedPreset:
        """The same as a preset whose encoder is too small to matter."""
        return SpeedPreset(
            self.name,
            _NO_ENCODER,
            self.llm,
            kv_heads=self.kv_heads,
            image_size=28,
            vocabulary=1024,
            text_tokens=self.text,
            dtype=self.dtype,
        )


@dataclass(frozen=True)
class LlmPreset:
    """Cases that are measured together.

    Args:
        name: what `--preset` takes.
        measures: `reweight` or `layers`.
        methods: those that are measured if none are named.
        cases: one after the other.
        needs_gpu: refuse the CPU.
    """

    name: str
    measures: str
    methods: str
    cases: tuple[Case, ...]
    needs_gpu: bool = False


_MHA, _QWEN = "32 heads", "28/4 heads"
# A narrow MLP, which no edit touches: attention weighs more here than in the whole layer.
_LLAMA_LAYER, _QWEN_LAYER = Layers(1, 4096, 32, 1024), Layers(1, 3584, 28, 1024)
_LLAMA_7B, _QWEN_7B = Layers(32, 4096, 32, 11008), Layers(28, 3584, 28, 18944)
_SHORT = (
    Case(f"{_MHA}, 700", _LLAMA_LAYER, 576, 124),
    Case(f"{_QWEN}, 700", _QWEN_LAYER, 576, 124, kv_heads=4),
)
_LONG = (
    Case(f"{_MHA}, 2900", _LLAMA_LAYER, 2640, 260),
    Case(f"{_QWEN}, 2900", _QWEN_LAYER, 2640, 260, kv_heads=4),
)
_GPU = (
    Case("7B, 32 heads, 700", _LLAMA_7B, 576, 124, dtype="bfloat16", every_layer=False),
    Case("7B, 32 heads, 2900", _LLAMA_7B, 2640, 260, dtype="bfloat16", every_layer=False),
    Case("7B, 28/4 heads, 700", _QWEN_7B, 576, 124, 4, "bfloat16", every_layer=False),
    Case("7B, 28/4 heads, 2900", _QWEN_7B, 2640, 260, 4, "bfloat16", every_layer=False),
)
_TINY = Layers(4, 64, 4, 96)
_EDITS, _STAGES = "var", "fastv,pyramiddrop,sparsevlm,dart"
_ALL = (
    LlmPreset("reweight", "reweight", _EDITS, _SHORT + _LONG),
    LlmPreset("reweight-700", "reweight", _EDITS, _SHORT),
    LlmPreset("reweight-2900", "reweight", _EDITS, _LONG),
    LlmPreset("reweight-7b", "reweight", _EDITS, _GPU, needs_gpu=True),
    LlmPreset(
        "reweight-tiny",
        "reweight",
        _EDITS,
        (Case("MHA", _TINY, 128, 9), Case("GQA", _TINY, 64, 9, kv_heads=2)),
    ),
    LlmPreset(
        "layers", "layers", _STAGES, (Case("12 layers", Layers(12, 1024, 16, 2752), 576, 60),)
    ),
    LlmPreset("layers-7b", "layers", _STAGES, _GPU, needs_gpu=True),
    LlmPreset("layers-tiny", "layers", _STAGES, (Case("4 layers", _TINY, 64, 9, keep=16),)),
)
LLM_PRESETS = {preset.name: preset for preset in _ALL}


def llm_preset_named(name: str, measures: str, device: str) -> LlmPreset:
    """Look a preset up and check that the device can run it.

    Args:
        name: name of the preset.
        measures: `reweight` or `layers`, what it must be for.
        device: torch device.

    Raises:
        ValueError: no such preset or device; the message says what can be run instead.
    """
    known = [preset.name for preset in _ALL if preset.measures == measures]
    if name not in known:
        raise ValueError(
            f"preset {name!r} does not measure --{measures}; those that do: {', '.join(known)}"
        )
    check_device(device)
    if LLM_PRESETS[name].needs_gpu and device == "cpu":
        raise ValueError(
            f"preset {name!r} has its true shape and is meant for a GPU; add --device cuda, or use "
            f"--preset {measures}"
        )
    return LLM_PRESETS[name]


@dataclass(frozen=True)
class LlmWork:
    """One model and one prompt, the same for every variant.

    Args:
        case: its shapes.
        model: not attached.
        ids: `[1, T]`.
        features: `[N, D]`, what the projector would have made of the image.
        steps: `[1, n]` tokens that are decoded, whatever the model would say.
    """

    case: Case
    model: Any
    ids: Tensor
    features: Tensor
    steps: Tensor

    @property
    def visual(self) -> Tensor:
        """Columns of the visual tokens, `[N]` ascending."""
        return (self.ids[0] == self.case.shapes.image_token).nonzero()[:, 0]

    def prefill(self) -> Any:
        """Run the whole prompt with a new cache."""
        # The model takes a list of images here, whatever the class says.
        features: Any = [self.features]
        encoded = BaseModelOutputWithPooling(pooler_output=features)
        return self.model(
            input_ids=self.ids,
            mm_encoder_outputs={"image": encoded},
            use_cache=True,
            logits_to_keep=1,
        )

    def decode(self, cache: Any) -> Any:
        """Run the tokens one by one behind a cache; the output of the last pass."""
        output = None
        for step in self.steps.split(1, dim=1):
            output = self.model(input_ids=step, past_key_values=cache, use_cache=True)
        return output


def make_llm_work(case: Case, device: str, new_tokens: int, seed: int = 0) -> LlmWork:
    """Build model and prompt.

    Args:
        case: shapes.
        device: torch device.
        new_tokens: decode steps.
        seed: of weights, text and features.
    """
    shapes = case.shapes
    model = build_model(shapes, device, seed)
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(2, shapes.image_token, (case.text + new_tokens,), generator=generator)
    prompt, steps = text[: case.text].clone(), text[case.text :]
    prompt[0] = 1
    front = case.text // 2
    image = torch.full((case.visual,), shapes.image_token)
    ids = torch.cat([prompt[:front], image, prompt[front:]])
    embedding = model.get_input_embeddings().weight
    features = torch.randn(case.visual, case.llm.width, generator=generator) * 0.02
    features[::EVERY] *= LENGTH
    with torch.no_grad():
        embedding[1] *= LENGTH
    return LlmWork(
        case,
        model,
        ids[None].to(device),
        features.to(device, embedding.dtype),
        steps[None].to(device),
    )


def with_keep(case: Case, keep: int | None) -> Case:
    """The case with another budget; None for its own.

    Raises:
        ValueError: more tokens than there are.
    """
    if keep is None:
        return case
    if not 0 < keep <= case.visual:
        raise ValueError(f"keep={keep} is not possible; {case.name} has {case.visual} tokens")
    return replace(case, keep=keep)
