"""Time what comes before the first token: encoder, selection, splice and the LLM's prefill.

In: boundary stages and one batch of inputs. Out: medians in ms, and the ratio to the unpruned
model. In every round all stages run one after the other on the same batch, so that a busy machine
slows them alike; a ratio is the median of the per-round ratios, after one warm-up round. It
measures this machine, this model and this batch, nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.decoder_call import coming_marks
from lvlm_prune.report import clock_ms


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of one batch.

    Args:
        encode: vision encoder and projector, with the signals that were read.
        select: scores, selection and merging.
        splice: shortening the prompt.
        prefill: the LLM up to the logits of the first new token.
    """

    encode: float
    select: float
    splice: float
    prefill: float

    @property
    def after_encoder(self) -> float:
        """What pruning costs and saves behind the encoder."""
        return self.select + self.splice + self.prefill

    @property
    def total(self) -> float:
        """Time to the first token."""
        return self.encode + self.after_encoder


@dataclass(frozen=True)
class Timing:
    """Medians over rounds, and ratios to the unpruned model.

    Args:
        times: medians in ms.
        llm_ratio: selection, splice and LLM prefill, as a share of the unpruned LLM prefill.
        total_ratio: the same with the encoder.
        llm_quartiles: quartiles of `llm_ratio` over rounds: far apart on a busy machine.
        total_quartiles: those of `total_ratio`.
    """

    times: StageTimes
    llm_ratio: float
    total_ratio: float
    llm_quartiles: tuple[float, float] | None = None
    total_quartiles: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a result file."""
        return asdict(self)


@torch.inference_mode()
def time_stages(model: Any, stage: BoundaryStage, inputs: Mapping[str, Any]) -> StageTimes:
    """Run one call up to the first token and time its stages."""
    rewritten = stage.rewrite(inputs)
    report = rewritten.report
    assert report is not None
    device = inputs["input_ids"].device
    if rewritten.marks:
        coming_marks.set(rewritten.marks)
    started = clock_ms(device)
    model(**rewritten.arguments, use_cache=True, logits_to_keep=1)
    ended = clock_ms(device)
    return StageTimes(report.encode_ms, report.select_ms, report.splice_ms, ended - started)


def interleaved(
    model: Any,
    unpruned: BoundaryStage,
    stages: Sequence[BoundaryStage],
    inputs: Mapping[str, Any],
    rounds: int,
    seconds: float = 30,
) -> tuple[StageTimes, list[Timing], int]:
    """Time the unpruned model and all stages in turn.

    Args:
        model: the model.
        unpruned: the stage that keeps everything.
        stages: the stages to compare with it.
        inputs: one batch for all of them.
        rounds: measured rounds, after one that warms up.
        seconds: begin no further round after this time, but measure at least one.

    Returns:
        Medians of the unpruned model, one `Timing` for each stage, and the rounds measured.
    """
    runs: list[list[StageTimes]] = []
    started = perf_counter()
    while len(runs) <= rounds and (len(runs) < 2 or perf_counter() - started < seconds):
        runs.append([time_stages(model, stage, inputs) for stage in (unpruned, *stages)])
    bases, *others = zip(*runs[1:], strict=True)
    timings = []
    for times in others:
        pairs = list(zip(times, bases, strict=True))
        after = [time.after_encoder / base.after_encoder for time, base in pairs]
        total = [time.total / base.total for time, base in pairs]
        timings.append(
            Timing(medians(times), median(after), median(total), _middle(after), _middle(total))
        )
    return medians(bases), timings, len(runs) - 1


def _middle(ratios: Sequence[float]) -> tuple[float, float]:
    """The quartiles of some ratios."""
    low, high = np.quantile(ratios, [0.25, 0.75])
    return float(low), float(high)


def medians(times: Sequence[StageTimes]) -> StageTimes:
    """The median of every stage."""
    names = ("encode", "select", "splice", "prefill")
    return StageTimes(**{name: median(getattr(t, name) for t in times) for name in names})
