"""`generate` with reweighting: answers beside the real one.

In: the arguments of `model.generate`. Out: what it returns. Methods with a pre-run observe a first
greedy answer on a copy of the cache, without the caller's processors and criteria; methods with a
contrast get a logits processor, before the caller's own, that runs a second branch. The branch
follows beams, samples and speculation; within beam search its result is brought back to
log-probabilities. Where the prompt ends, `announcer` tells the passes.
"""

import copy
import functools
from typing import Any

import torch
from torch import Tensor
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lvlm_prune.decoder_call import whole_conversation
from lvlm_prune.decoder_memory import memory_of
from lvlm_prune.generate_arguments import end_tokens, named_arguments, prompt_mask, setting
from lvlm_prune.reweight.branch import Branch, rotary_state, with_noise, without_images
from lvlm_prune.reweight.contract import Contrast
from lvlm_prune.reweight.run import ALONE, ANSWER, OBSERVE, Run, running

# What only the real answer may meet: it sees tokens as they come, or speculates on them.
OF_THE_ANSWER = (
    "streamer",
    "stopping_criteria",
    "logits_processor",
    "prefix_allowed_tokens_fn",
    "assistant_model",
    "prompt_lookup_num_tokens",
    "cache_implementation",
    "guidance_scale",
    "negative_prompt_ids",
    "negative_prompt_attention_mask",
    "stop_strings",
    "max_length",
    "min_length",
    "min_new_tokens",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
)


class ReweightedGenerate:
    """Stands in for `model.generate` while a reweighting is attached.

    Args:
        owner: the reweighting.
    """

    original: Any

    def __init__(self, owner: Any) -> None:
        functools.update_wrapper(self, owner.model.generate, updated=())
        self.owner = owner

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the answers that are needed beside the real one, and then that."""
        owner, model = self.owner, self.owner.model
        arguments = named_arguments(model, args, kwargs)
        self._check(arguments)
        visual = whole_conversation(arguments, owner.placeholders, owner.depth)
        images = visual is not None and bool(visual.any())
        beams = (setting(model, arguments, "num_beams") or 1) > 1
        run = Run(owner, ANSWER, beams=beams)
        if owner.tokens and images:
            run.marks = self._first_answer(arguments)
        if owner.contrast is not None and images:
            arguments = self._contrasted(arguments, owner.contrast, beams)
        with running(run):
            return self.original(**arguments)

    def _check(self, arguments: dict[str, Any]) -> None:
        """Refuse ways of generating that a sequential method cannot follow."""
        owner, model = self.owner, self.owner.model
        if not owner.method.sequential:
            return
        speculates = arguments.get("assistant_model") is not None or setting(
            model, arguments, "prompt_lookup_num_tokens"
        )
        if speculates or setting(model, arguments, "use_cache") is False:
            raise ValueError(
                f"reweight {owner.method.name!r} scores each new token in a pass of its own, which "
                "speculation and use_cache=False do not have; leave out assistant_model, "
                "prompt_lookup_num_tokens and use_cache=False"
            )

    def _first_answer(self, arguments: dict[str, Any]) -> dict[str, Tensor]:
        """Observe a first greedy answer, and return the marks of the prompt, `[B, P]` each."""
        owner, model = self.owner, self.owner.model
        settings = {
            "max_new_tokens": owner.tokens,
            "do_sample": False,
            "num_beams": 1,
            "num_return_sequences": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 50,
            "use_cache": True,
            "guidance_scale": 1.0,
            "return_dict_in_generate": False,
        }
        first = {name: one for name, one in arguments.items() if name not in OF_THE_ANSWER}
        config = copy.deepcopy(first.get("generation_config"))
        if config is None:
            first.update(settings)
        else:
            for name in OF_THE_ANSWER:
                if name in config.__dict__:
                    setattr(config, name, None)
            for name, value in settings.items():
                first.pop(name, None)
                setattr(config, name, value)
            first["generation_config"] = config
        first["past_key_values"] = copy.deepcopy(arguments.get("past_key_values"))
        run = Run(owner, OBSERVE)
        ended = _Ended(run, end_tokens(model, arguments))
        first["stopping_criteria"] = StoppingCriteriaList([ended])
        with rotary_state(model), running(run):
            self.original(**first)
        if run.memory is None or owner.method.finish is None:
            return {}
        memory = run.memory
        marks = owner.method.finish(memory.marks, memory.visual, owner.depth, **owner.options)
        return {name: values[:, : run.prompt] for name, values in marks.items()}

    def _contrasted(
        self, arguments: dict[str, Any], contrast: Contrast, beams: bool
    ) -> dict[str, Any]:
        """Run the prompt of the second branch, and add what asks it at each step."""
        owner, model = self.owner, self.owner.model
        cache = arguments.get("past_key_values")
        ids, mask = arguments["input_ids"], prompt_mask(model, arguments)
        held = memory_of(cache, ids.shape[0], owner.depth, ids.device)
        if held.length and (contrast.noised is not None or mask.shape[1] != ids.shape[1]):
            raise ValueError(
                f"reweight {owner.method.name!r} contrasts with a branch of its own, which does "
                f"not know the {held.length} columns of past_key_values; pass the whole "
                "conversation with its images, without past_key_values"
            )
        pad = setting(model, arguments, "pad_token_id")
        pad = next(iter(end_tokens(model, arguments)), 0) if pad is None else pad
        if contrast.noised is None:
            inputs = without_images(ids, mask, owner.placeholders, pad)
            if arguments.get("token_type_ids") is not None:
                # Type 0 is text, which some LLMs then read in both directions (PaliGemma).
                inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        else:
            config = vars(model.generation_config)
            inputs = {
                name: one
                for name, one in with_noise(arguments, contrast.noised).items()
                if name not in OF_THE_ANSWER and name not in config
            }
            for name in ("generation_config", "past_key_values"):
                inputs.pop(name, None)
            inputs["attention_mask"] = mask
        branch = Branch(model, self._alone, inputs, pad)
        processor = _Contrasted(branch, contrast, ids.shape[1], beams)
        others = arguments.get("logits_processor") or []
        return {**arguments, "logits_processor": LogitsProcessorList([processor, *others])}

    def _alone(self, **arguments: Any) -> Any:
        """The `generate` of the second branch: without reweighting."""
        with running(Run(self.owner, ALONE)):
            return self.original(**arguments)


class _Ended(StoppingCriteria):
    """Tells a run which prompts' answers have ended; it stops nothing."""

    def __init__(self, run: Run, ends: list[int]) -> None:
        self.run = run
        self.ends = ends

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        ended = torch.isin(input_ids[:, -1], input_ids.new_tensor(self.ends))
        self.run.ended = ended if self.run.ended is None else self.run.ended | ended
        return torch.zeros_like(ended)


class _Contrasted(LogitsProcessor):
    """Contrasts next-token logits with those of a second branch."""

    def __init__(self, branch: Branch, contrast: Contrast, columns: int, beams: bool) -> None:
        self.branch = branch
        self.contrast = contrast
        self.columns = columns
        self.beams = beams

    # LogitsProcessorList demands every parameter beyond these two from the caller.
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        other = self.branch.logits(input_ids[:, self.columns :]).to(scores)
        found = self.contrast.combine(scores, other)
        return found.log_softmax(dim=-1) if self.beams else found
