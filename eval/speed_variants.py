"""What is compared: the unpruned model, the ideal, and the model pruned by each method.

All variants answer the same question of one image with the stock `generate`, greedily, vision
encoder included. The ideal runs the same encoder and projector on the whole image and then gives
the LLM a prompt with exactly K visual tokens (the first K rows at consecutive positions): nothing
is read, ranked, merged or shortened, so no method that prunes behind the encoder can be faster.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lvlm_prune import attach
from lvlm_prune.adapters import Adapter, adapter_for
from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.eval.speed_models import build_model, make_prompt
from lvlm_prune.eval.speed_presets import SpeedPreset

UNPRUNED = "unpruned"
IDEAL = "ideal"

# Answers the question of a workload; takes further arguments of `generate`.
Answer = Callable[..., Any]


@dataclass(frozen=True)
class Workload:
    """One model and one question, the same for every variant.

    Args:
        preset: shapes.
        model: the model, not attached.
        prompt: the question with N placeholder tokens.
        ideal_prompt: the same question with K.
        keep: budget as the user gave it.
        new_tokens: tokens that are decoded, n.
    """

    preset: SpeedPreset
    model: Any
    prompt: dict[str, Tensor]
    ideal_prompt: dict[str, Tensor]
    keep: int | float
    new_tokens: int

    @property
    def adapter(self) -> Adapter:
        """Where the modules of the model's family are."""
        return adapter_for(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def generate(self, **arguments: Any) -> Any:
        """The stock call, or the attachment's if the model carries one."""
        return self.model.generate(max_new_tokens=self.new_tokens, do_sample=False, **arguments)


def make_workload(
    preset: SpeedPreset, device: str, keep: int | float, new_tokens: int, seed: int = 0
) -> Workload:
    """Build model and prompts.

    Args:
        preset: shapes.
        device: torch device.
        keep: tokens per image or share of them.
        new_tokens: tokens to decode.
        seed: seed of weights, text and pixels.
    """
    count = tokens_to_keep(keep, preset.visual_tokens)
    return Workload(
        preset=preset,
        model=build_model(preset, device, seed),
        prompt=make_prompt(preset, device, preset.placeholders, seed),
        ideal_prompt=make_prompt(preset, device, count, seed),
        keep=keep,
        new_tokens=new_tokens,
    )


@contextmanager
def prepared(work: Workload, name: str) -> Iterator[Answer]:
    """Make a variant ready; attaching and detaching are outside of what is timed.

    Args:
        work: model and question.
        name: `unpruned`, `ideal` or the name of a method.

    Returns:
        The call that is timed.
    """
    if name == UNPRUNED:
        yield partial(work.generate, **work.prompt)
    elif name == IDEAL:
        yield partial(_answer_ideally, work)
    else:
        with attach(work.model, method=name, keep=work.keep):
            yield partial(work.generate, **work.prompt)


@torch.no_grad()
def _answer_ideally(work: Workload, **arguments: Any) -> Any:
    """Encode the whole image, then generate from its first K rows."""
    ids = work.ideal_prompt["input_ids"]
    count = int((ids == work.preset.image_token).sum())
    image = work.adapter.encoder_arguments(work.ideal_prompt, "image")
    outputs = work.model.base_model.get_image_features(**image)
    rows = [features[:count] for features in outputs.pooler_output]
    return work.generate(
        input_ids=ids,
        attention_mask=work.ideal_prompt["attention_mask"],
        mm_encoder_outputs={"image": type(outputs)(pooler_output=rows)},
        **arguments,
    )
