"""Measure what a prompt costs: milliseconds up to its first token, bytes of its KV cache.

In: a model, a boundary stage and one prompt. Out: `Prefilled`. Rounds are interleaved, full and
pruned in turn, so that a busy machine slows both alike; nothing is estimated. What a reweighting
runs beside the answer is in the wait for the first token, and in nothing else.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

from lvlm_prune.attachment import attach
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.decoder_call import coming_marks
from lvlm_prune.demo.cancelling import Job
from lvlm_prune.demo.results import Measured, Prefilled
from lvlm_prune.demo.settings import UNPRUNED
from lvlm_prune.inside import inside
from lvlm_prune.kv_cache import cache_bytes
from lvlm_prune.report import clock_ms

ROUNDS = 5
SECONDS = 2.0  # begin no further round after this time


@torch.inference_mode()
def prefill(model: Any, stage: BoundaryStage, inputs: Mapping[str, Any]) -> Prefilled:
    """Run one prompt up to its first new token.

    Args:
        model: the model.
        stage: what is dropped before the LLM.
        inputs: one prompt with one image.
    """
    with inside(model, stage.config):
        device = inputs["input_ids"].device
        entered = clock_ms(device)
        rewritten = stage.rewrite(inputs)
        if rewritten.marks:
            coming_marks.set(rewritten.marks)
        started = clock_ms(device)
        output = model(**rewritten.arguments, use_cache=True, logits_to_keep=1)
        ended = clock_ms(device)
    report = rewritten.report
    encode = 0.0 if report is None else report.encode_ms
    return Prefilled(
        encode=encode,
        select=started - entered - encode,
        prefill=ended - started,
        first_token=first_token(model, stage.config, inputs),
        kv_bytes=cache_bytes(output.past_key_values),
        prompt=rewritten.arguments["input_ids"].shape[1],
    )


def first_token(model: Any, config: PruneConfig, inputs: Mapping[str, Any]) -> float:
    """Milliseconds until `generate` gives one new token, as a script waits for it.

    Args:
        model: the model.
        config: what is attached meanwhile.
        inputs: one prompt with one image.
    """
    device = inputs["input_ids"].device
    with nullcontext() if config == UNPRUNED else attach(model, config):
        started = clock_ms(device)
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
        return clock_ms(device) - started


def measure(
    model: Any, stages: Sequence[BoundaryStage], inputs: Mapping[str, Any], job: Job
) -> Measured:
    """Measure the full and the pruned model in turn.

    Args:
        model: the model.
        stages: the unpruned stage and the pruned one.
        inputs: one prompt with one image.
        job: checked before every run.

    Returns:
        Medians over rounds; the first round warms up and counts only where it is the only one.
    """
    rounds: list[list[Prefilled]] = []
    started = perf_counter()
    while len(rounds) <= ROUNDS and (not rounds or perf_counter() - started < SECONDS):
        times = []
        for stage in stages:
            job.check()
            times.append(prefill(model, stage, inputs))
        rounds.append(times)
    counted = rounds[1:] or rounds
    full, pruned = (_medians(each) for each in zip(*counted, strict=True))
    shares = [after.first_token / before.first_token for before, after in counted]
    return Measured(full, pruned, len(counted), spread(shares))


def spread(values: Sequence[float]) -> float:
    """The range of the middle half of some values, as a share of their median.

    Args:
        values: positive numbers; of one alone the spread is 0.
    """
    if len(values) < 2:
        return 0.0
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def _medians(runs: Sequence[Prefilled]) -> Prefilled:
    """The median of every time."""
    names = ("encode", "select", "prefill", "first_token")
    return replace(runs[0], **{name: median(getattr(run, name) for run in runs) for name in names})
