"""Peak memory of one answer: tensors that were alive at once, beyond what was there before.

In: the call of a variant. Out: MiB, and the visual tokens that reached the LLM. Weights and inputs
exist before the call and are not in it. On a GPU the caching allocator counts; on the CPU torch's
profiler lists every allocation and release of torch's allocator, and the running sum has a highest
point. Both are exact and repeatable, unlike the resident set of a process, which also holds
libraries and what the C allocator has not given back. Scratch space inside BLAS libraries is not
seen.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lvlm_prune.eval.speed_variants import Answer, Workload
from lvlm_prune.report import MIB


def peak_and_tokens(work: Workload, answer: Answer) -> tuple[float, int]:
    """Answer once and measure.

    Args:
        work: model and question.
        answer: the call of a variant.

    Returns:
        Peak memory of the call in MiB, and the visual tokens in the LLM's KV cache.
    """
    peak, output = peak_of(partial(answer, return_dict_in_generate=True), work.device)
    # The last new token is never fed back, so it is not in the cache.
    prompt = int(output.past_key_values.get_seq_length()) - (work.new_tokens - 1)
    return peak / MIB, prompt - work.preset.text_tokens


def peak_of(call: Callable[[], Any], device: torch.device) -> tuple[int, Any]:
    """Run once and measure.

    Args:
        call: what is run.
        device: where its tensors are.

    Returns:
        Peak memory in bytes beyond what was there before, and what the call returned.
    """
    return _peak_on_gpu(call, device) if device.type == "cuda" else _peak_on_cpu(call)


def _peak_on_gpu(call: Callable[[], Any], device: torch.device) -> tuple[int, Any]:
    """Bytes by the counters of the caching allocator."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    output = call()
    return torch.cuda.max_memory_allocated(device) - before, output


def _peak_on_cpu(call: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes by the profiler's list of allocations."""
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with (
            _quiet_stderr(),
            profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run,
        ):
            output = call()
        run.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return highest_sum(events), output


def highest_sum(events: list[dict[str, Any]]) -> int:
    """The most bytes that were alive at once, from the events of a trace.

    Args:
        events: `traceEvents`; those named `[memory]` carry signed `Bytes` and a time.
    """
    memory = [event for event in events if event.get("name") == "[memory]"]
    # A stable sort: events of the same instant stay in the order they were recorded.
    memory.sort(key=lambda event: event["ts"])
    alive = highest = 0
    for event in memory:
        alive += event["args"]["Bytes"]
        highest = max(highest, alive)
    return highest


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Send what native code writes to stderr nowhere: the profiler announces its start and stop."""
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        saved = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
