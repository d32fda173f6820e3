"""attach(): the one added line. It prunes every image that a model is given until it is detached.

Attaching sets `model.generate` on the instance, one forward pre-hook on the model, and taps on the
attention modules that the method reads. Detaching undoes them. What a call did is in the
attachment's report; nothing is kept on the method, and nothing at module level but the registered
name of the tap's attention function.
"""

import inspect
import threading
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.cache_columns import carries_columns, mark, remember_text
from lvlm_prune.call import Rewritten
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import AlreadyAttachedError, NoReportError
from lvlm_prune.generation import PrunedGenerate
from lvlm_prune.question import ClipEmbedder
from lvlm_prune.report import PruneReport
from lvlm_prune.splice import Plan
from lvlm_prune.tap import install_tap, remove_tap

_ATTRIBUTE = "_lvlm_prune"


def attach(
    model: nn.Module,
    config: PruneConfig | Mapping[str, Any] | None = None,
    *,
    clip: ClipEmbedder | None = None,
    **settings: Any,
) -> "Attachment":
    """Prune the visual tokens of every image that this model is given.

    Args:
        model: a supported transformers model; PEFT and `torch.compile` wrappers are looked through.
        config: a config or its dict; None starts from the defaults.
        clip: CLIP towers for methods with `options={"relevance": "clip"}`, such as `ClipText`.
        **settings: fields of PruneConfig, such as `method="cls", keep=64`.

    Returns:
        The attachment, also a context manager that detaches.

    Raises:
        AlreadyAttachedError: the model is attached already.
        UnsupportedModelError, UnknownMethodError, MissingSignalError, ValueError, TypeError: see
            the message; nothing is changed then.
    """
    return Attachment(unwrap(model), make_config(config, settings), clip)


def prune_inputs(
    model: nn.Module,
    inputs: Mapping[str, Any],
    config: PruneConfig | Mapping[str, Any] | None = None,
    *,
    clip: ClipEmbedder | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], Plan]:
    """Encode and shorten one call without attaching anything.

    Args:
        model: a supported transformers model; it is left as it is.
        inputs: what the processor made: `input_ids` `[B, L]`, `pixel_values` and so on.
        config: as for `attach`.
        clip: as for `attach`.
        **settings: as for `attach`.

    Returns:
        Inputs for the first turn of the stock model's `forward`, or of `generate` with a cache, and
        the plan. Prompts without images come back as they are. Generated sequences begin with the
        short prompt. A loop of your own goes on from `position_ids[:, -1] + 1`. Without a cache,
        `generate` would take gaps in the positions for borders between packed sequences: use
        `attach` there, and for later turns.
    """
    stage = BoundaryStage(unwrap(model), make_config(config, settings), clip)
    rewritten = stage.rewrite(inputs)
    return rewritten.arguments, rewritten.plan


def make_config(
    config: PruneConfig | Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> PruneConfig:
    """Merge a config with single settings."""
    if config is None:
        return PruneConfig.from_dict(settings)
    if isinstance(config, PruneConfig):
        return replace(config, **settings)
    if isinstance(config, Mapping):
        return PruneConfig.from_dict({**config, **settings})
    raise TypeError(
        f"config must be a PruneConfig or a dict, got {config!r}; "
        "name single settings, as in attach(model, method='cls', keep=64)"
    )


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside a `torch.compile` or PEFT wrapper."""
    if isinstance(model, torch._dynamo.OptimizedModule):
        return unwrap(model._orig_mod)
    # Only PeftModel has this method; importing the optional package to ask would cost seconds.
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else unwrap(inner())


class Attachment:
    """Pruning in place on one model.

    Args:
        model: the model, unwrapped.
        config: what to prune.
        clip: see `attach`.
    """

    def __init__(self, model: Any, config: PruneConfig, clip: ClipEmbedder | None = None) -> None:
        if _ATTRIBUTE in model.__dict__:
            current = model.__dict__[_ATTRIBUTE].config
            raise AlreadyAttachedError(
                f"this model is already pruned by method={current.method!r}, keep={current.keep}; "
                "call detach() on that attachment first"
            )
        self.model = model
        self.config = config
        self.stage = BoundaryStage(model, config, clip)
        self._last = _LastReport()
        self._newest: PruneReport | None = None
        self._arguments = tuple(inspect.signature(type(model).forward).parameters)[1:]
        self._modules = list(self.stage.adapter.attention_modules(self.stage.request).values())
        for module in self._modules:
            install_tap(module)
        self._hook = model.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        self._before = model.__dict__.get("generate")
        self._generate = PrunedGenerate(self.stage, self.keep_report, model.generate)
        model.__dict__["generate"] = self._generate
        model.__dict__[_ATTRIBUTE] = self

    @property
    def report(self) -> PruneReport:
        """The report of this thread's last call with an image, or else of any thread's.

        A script that streams calls `generate` in a thread of its own and reads the report outside.

        Raises:
            NoReportError: there was none yet.
        """
        report = self._last.report or self._newest
        if report is None:
            raise NoReportError(
                "no image was pruned yet; call model.generate(**inputs) or model(**inputs) with "
                "pixel_values first"
            )
        return report

    def keep_report(self, report: PruneReport) -> None:
        """Remember the report of a call."""
        self._last.report = self._newest = report

    def detach(self) -> None:
        """Undo everything, in reverse order. Calling it again does nothing."""
        instance = self.model.__dict__
        if instance.get(_ATTRIBUTE) is not self:
            return
        del instance[_ATTRIBUTE]
        # Someone may have replaced ours since; theirs is not ours to take away.
        if instance.get("generate") is self._generate:
            del instance["generate"]
            if self._before is not None:
                instance["generate"] = self._before
        self._hook.remove()
        for module in self._modules:
            remove_tap(module)

    def __enter__(self) -> "Attachment":
        if self.model.__dict__.get(_ATTRIBUTE) is not self:
            raise RuntimeError("this attachment is detached; call attach(model, ...) again")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

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
            self.keep_report(rewritten.report)
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


class _LastReport(threading.local):
    """The last report of each thread; a copy of it starts empty."""

    report: PruneReport | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _LastReport, ()
