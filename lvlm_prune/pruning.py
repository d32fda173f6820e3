"""Pruning: visual tokens are dropped before the LLM of one model, until it is detached.

It sets `model.generate` on the instance, one forward pre-hook on the model, and taps on the
attention modules of the encoder that the method reads. What a call did is in its report; nothing is
kept on the method. Every check happens when it is made.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.cache_columns import carries_columns, mark, remember_text
from lvlm_prune.call import Rewritten
from lvlm_prune.config import PruneConfig
from lvlm_prune.decoder_call import coming_marks
from lvlm_prune.generate_chain import unwrap_generate, wrap_generate
from lvlm_prune.generation import PrunedGenerate
from lvlm_prune.last_report import LastReport
from lvlm_prune.question import ClipEmbedder
from lvlm_prune.report import PruneReport
from lvlm_prune.tap import install_tap, remove_tap


class Pruning:
    """Pruning before the LLM of one model.

    Args:
        model: the model, unwrapped.
        config: what to prune.
        clip: CLIP towers, see `attach`.
        marks: numbers of visual tokens that stages inside the LLM ask for, see `encoder_marks`.
    """

    def __init__(
        self,
        model: Any,
        config: PruneConfig,
        clip: ClipEmbedder | None = None,
        marks: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.config = config
        self.stage = BoundaryStage(model, config, clip, marks)
        self.reports: LastReport[PruneReport] = LastReport(
            "no image was pruned yet; call model.generate(**inputs) or model(**inputs) with "
            "pixel_values first"
        )
        self._arguments = tuple(inspect.signature(type(model).forward).parameters)[1:]
        self._modules = list(self.stage.adapter.attention_modules(self.stage.request).values())
        for module in self._modules:
            install_tap(module)
        self._hook = model.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        self._generate = PrunedGenerate(self.stage, self.reports.keep, model.generate)
        wrap_generate(model, self._generate)
        self._attached = True

    def detach(self) -> None:
        """Undo everything, in reverse order. Calling it again does nothing."""
        if not self._attached:
            return
        self._attached = False
        unwrap_generate(self.model, self._generate)
        self._hook.remove()
        for module in self._modules:
            remove_tap(module)

    def _before_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Shorten a direct call of the model; decode steps of `generate` pass untouched."""
        arguments = {**dict(zip(self._arguments, args, strict=False)), **kwargs}
        images = self.stage.has_images(arguments)
        if not images and not carries_columns(arguments.get("past_key_values")):
            if not self.stage.adapter.counts_positions:
                remember_text(arguments)
            return None
        return (), self._shortened(arguments)

    # Encoding reads context variables and sizes, which a compiled graph cannot hold.
    @torch.compiler.disable
    def _shortened(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Rewrite a direct call and mark its cache, so that the next step finds its columns."""
        rewritten = self.stage.rewrite(arguments)
        if rewritten.report is not None:
            self.reports.keep(rewritten.report)
        if rewritten.marks:
            coming_marks.set(rewritten.marks)
        shortened = rewritten.arguments
        if rewritten.plan.dropped and isinstance(shortened.get("logits_to_keep"), torch.Tensor):
            raise ValueError(
                "logits_to_keep as a tensor names columns of the unpruned prompt; pass an int, or "
                "map the columns with prune_inputs and its plan"
            )
        if rewritten.plan.dropped or carries_columns(arguments.get("past_key_values")):
            self._mark_cache(shortened, rewritten)
        return shortened

    def _mark_cache(self, arguments: dict[str, Any], rewritten: Rewritten) -> None:
        """Give the call a cache that knows its columns, if the model would use one."""
        text = self.model.config.get_text_config()
        uses_cache = arguments.get("use_cache")
        if not (text.use_cache if uses_cache is None else uses_cache):
            return
        cache = arguments.get("past_key_values")
        if cache is None:
            cache = arguments["past_key_values"] = DynamicCache(config=text)
        mark(cache, rewritten.columns)
