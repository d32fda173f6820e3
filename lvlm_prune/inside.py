"""What a config asks for inside the LLM, attached for the length of a block.

In: a model and a config. Out: a context in which its layers run with the config's stages and
reweighting. Pruning before the LLM is not done here; `attach` does all of it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lvlm_prune.config import PruneConfig
from lvlm_prune.layers.stage import LayerStage
from lvlm_prune.llm_sinks import SinkRule
from lvlm_prune.reweight.engine import Reweighting
from lvlm_prune.reweight.registry import reweighter_named


@contextmanager
def inside(
    model: Any, config: PruneConfig, sink_rule: SinkRule | None = None
) -> Iterator[LayerStage | None]:
    """Attach a config's stages and reweighting while the block runs.

    Args:
        model: the model, unwrapped.
        config: its `layers` and `reweight` count.
        sink_rule: how LLM sinks are told; None for the norm rule.

    Yields:
        The layer stage, or None without one.
    """
    with ExitStack() as undo:
        stage = None
        if config.layers is not None:
            stage = undo.enter_context(LayerStage(model, config.layers, sink_rule))
        if config.reweight is not None:
            undo.enter_context(Reweighting(model, config.reweight, sink_rule))
        yield stage


def wanted_marks(config: PruneConfig) -> tuple[str, ...]:
    """Numbers of visual tokens that a config's parts inside the LLM take from the encoder."""
    marks: tuple[str, ...] = ()
    if config.layers is not None and config.layers.sinks == "exclude":
        marks = ("vit_sink",)
    if config.reweight is not None:
        marks += reweighter_named(config.reweight.method).encoder
    return marks
