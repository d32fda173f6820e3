"""attach(): the one added line. It prunes every image that a model is given until it is detached.

An attachment has up to three parts, which can also be detached one by one in any order: pruning
before the LLM, stages inside it, and reweighting of its attention. Detaching undoes everything.
What a call did is in the attachment's report; nothing is kept on the methods, and nothing at module
level but the registered name of the tap's attention function.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.detachable import Detachable
from lvlm_prune.errors import AlreadyAttachedError, NoReportError
from lvlm_prune.inside import wanted_marks
from lvlm_prune.layers.stage import LayerStage
from lvlm_prune.llm_sinks import SinkRule, sink_rule_for
from lvlm_prune.pruning import Pruning
from lvlm_prune.question import ClipEmbedder
from lvlm_prune.report import PruneReport
from lvlm_prune.reweight.engine import Reweighting
from lvlm_prune.splice import Plan


def attach(
    model: nn.Module,
    config: PruneConfig | Mapping[str, Any] | None = None,
    *,
    clip: ClipEmbedder | None = None,
    sink_rule: SinkRule | None = None,
    **settings: Any,
) -> "Attachment":
    """Prune the visual tokens of every image that this model is given.

    Args:
        model: a supported transformers model; PEFT and `torch.compile` wrappers are looked through.
        config: a config or its dict; None starts from the defaults.
        clip: CLIP towers for methods with `options={"relevance": "clip"}`, such as `ClipText`.
        sink_rule: how LLM sinks are told, see `lvlm-prune calibrate`; None for the norm rule.
        **settings: fields of PruneConfig, such as `method="cls", keep=64`, `layers="fastv"` or
            `reweight="var"`.

    Returns:
        The attachment, also a context manager that detaches.

    Raises:
        AlreadyAttachedError: the model is attached already.
        UnsupportedModelError, UnknownMethodError, MissingSignalError, ValueError, TypeError: see
            the message; nothing is changed then.
    """
    return Attachment(unwrap(model), make_config(config, settings), clip, sink_rule)


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
    made = make_config(config, settings)
    if not made.prunes_before_llm or made.layers is not None or made.reweight is not None:
        raise ValueError(
            "prune_inputs shortens prompts; layers and reweight work inside the LLM: use attach()"
        )
    stage = BoundaryStage(unwrap(model), made, clip)
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


class Attachment(Detachable):
    """Everything that is attached to one model.

    Args:
        model: the model, unwrapped.
        config: what to prune, and what to change inside the LLM.
        clip: see `attach`.
        sink_rule: see `attach`.
    """

    mark = "_lvlm_prune"
    called = "attachment"

    def __init__(
        self,
        model: Any,
        config: PruneConfig,
        clip: ClipEmbedder | None = None,
        sink_rule: SinkRule | None = None,
    ) -> None:
        if self.mark in model.__dict__:
            current = model.__dict__[self.mark].config
            raise AlreadyAttachedError(
                f"this model has {current.summary()} attached already; call detach() on that "
                "attachment first"
            )
        super().__init__(model)
        self.config = config
        self.pruning: Pruning | None = None
        self.layers: LayerStage | None = None
        self.reweighting: Reweighting | None = None
        try:
            self._attach(clip, sink_rule)
        except BaseException:
            self._detach_parts()
            raise
        model.__dict__[self.mark] = self

    def _attach(self, clip: ClipEmbedder | None, sink_rule: SinkRule | None) -> None:
        """Attach the parts that the config names."""
        config, marks = self.config, wanted_marks(self.config)
        if sink_rule is not None:
            # Also where no part reads it: a wrong one must not go by unseen.
            text = self.model.config.get_text_config()
            sink_rule_for(sink_rule, text.num_hidden_layers, text.hidden_size)
        if config.reweight is not None and "size" in marks and not config.prunes_before_llm:
            raise ValueError(
                f"reweight={config.reweight.label()!r} calibrates merged tokens, and nothing is "
                "merged; name a merging method too, such as method='visionzip', 'vscan' or 'tome'"
            )
        if config.layers is not None:
            self.layers = LayerStage(self.model, config.layers, sink_rule)
        if config.prunes_before_llm or "local" in marks:
            self.pruning = Pruning(self.model, config, clip, marks)
        # Last, so that it sees the pixels that its own passes need.
        if config.reweight is not None:
            self.reweighting = Reweighting(self.model, config.reweight, sink_rule)

    @property
    def stage(self) -> BoundaryStage:
        """The stage before the LLM.

        Raises:
            NoReportError: there is none.
        """
        return self._pruning().stage

    @property
    def report(self) -> PruneReport:
        """The report of this thread's last call with an image, or else of any thread's.

        A script that streams calls `generate` in a thread of its own and reads the report outside.
        With stages inside the LLM it holds their report too; `layers.report` is that alone.

        Raises:
            NoReportError: there was none yet, or nothing is dropped before the LLM.
        """
        report = self._pruning().reports.get()
        return report if self.layers is None else replace(report, layers=self.layers.report)

    def _pruning(self) -> Pruning:
        """The part before the LLM."""
        if self.pruning is None:
            hint = "; ask layers.report for the stages inside it" if self.layers else ""
            raise NoReportError(f"this attachment drops nothing before the LLM{hint}")
        return self.pruning

    def detach(self) -> None:
        """Undo everything, in reverse order. Calling it again does nothing."""
        if not self.attached:
            return
        del self.model.__dict__[self.mark]
        self._detach_parts()

    def _detach_parts(self) -> None:
        """Detach the parts; those that were detached one by one stay so."""
        for part in (self.reweighting, self.pruning, self.layers):
            if part is not None:
                part.detach()
