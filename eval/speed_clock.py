"""Time one answer and the stages inside it.

In: the call of a variant. Out: milliseconds of one call of `generate`, on each clock there is:

- `end_to_end`: from the call to its return, vision encoder included.
- `encoder`: from the start of the vision tower to the end of the projector, taps included.
- `stage`: everything else before the LLM starts: the set-up of `generate` and, where tokens are
  pruned, scoring, selecting, merging and shortening. The ideal's is the set-up alone.
- `prefill`: from the start of the LLM's first pass to the first token.
- `decode`: from the first token to the last, divided by n - 1.

So `end_to_end` is `encoder + stage + prefill + (n - 1) * decode` and what `generate` does after the
last token. Marks are forward hooks and a streamer, which every variant carries alike. On the CPU
each mark reads the wall clock and the CPU time of the process (all threads); on a GPU it is an
event on the stream, so that marking stops nothing.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers.generation import BaseStreamer

from lvlm_prune.adapters import adapter_for
from lvlm_prune.eval.speed_variants import Answer, Workload

MEASURES = ("end_to_end", "encoder", "stage", "prefill", "decode")


class Stopwatch:
    """Named instants of one call."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.marks: dict[str, Any] = {}

    def mark(self, name: str) -> None:
        """Note this instant; only the first one of a name counts."""
        if name in self.marks:
            return
        if self.on_gpu:
            self.marks[name] = torch.cuda.Event(enable_timing=True)
            self.marks[name].record()
        else:
            self.marks[name] = {"wall": time.perf_counter(), "cpu": time.process_time()}

    def between(self, start: str, end: str) -> dict[str, float]:
        """Milliseconds from one instant to another on each clock."""
        first, last = self.marks[start], self.marks[end]
        if self.on_gpu:
            return {"wall": first.elapsed_time(last)}
        return {clock: (last[clock] - first[clock]) * 1000 for clock in first}


class TokenStreamer(BaseStreamer):
    """Mark when each token of the answer is known; the prompt comes first and is no token."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self.count = -1

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt or one token."""
        self.count += 1
        if self.count:
            self.stopwatch.mark(f"token {self.count}")

    def end(self) -> None:
        """Nothing is held back."""


def time_answer(work: Workload, answer: Answer) -> dict[str, dict[str, float]]:
    """Answer once.

    Args:
        work: model and question.
        answer: the call of a variant.

    Returns:
        For each clock (`wall`; on the CPU also `cpu`), the MEASURES in milliseconds.
    """
    stopwatch = Stopwatch(work.device)
    with _marked(work.model, stopwatch):
        _wait(work.device)
        stopwatch.mark("start")
        answer(streamer=TokenStreamer(stopwatch))
        stopwatch.mark("end")
        _wait(work.device)
    encoder = stopwatch.between("encoder starts", "encoder ends")
    before_llm = stopwatch.between("start", "llm starts")
    spans = {
        "end_to_end": stopwatch.between("start", "end"),
        "encoder": encoder,
        "stage": {clock: before_llm[clock] - encoder[clock] for clock in encoder},
        "prefill": stopwatch.between("llm starts", "token 1"),
        "decode": stopwatch.between("token 1", f"token {work.new_tokens}"),
    }
    times = {clock: {name: spans[name][clock] for name in MEASURES} for clock in encoder}
    for measures in times.values():
        measures["decode"] /= work.new_tokens - 1
    return times


@contextmanager
def _marked(model: Any, stopwatch: Stopwatch) -> Iterator[None]:
    """Mark the borders of encoder and LLM while the block runs."""
    family = adapter_for(model)
    tower = ".".join(family.vision_layers.split(".")[:2])
    with ExitStack() as undo:
        for module, name in (
            (model.get_submodule(tower), "encoder starts"),
            (model.model.language_model, "llm starts"),
        ):
            hook = module.register_forward_pre_hook(_marker(stopwatch, name))
            undo.callback(hook.remove)
        hook = model.get_submodule(family.projector).register_forward_hook(
            _marker(stopwatch, "encoder ends")
        )
        undo.callback(hook.remove)
        yield


def _marker(stopwatch: Stopwatch, name: str) -> Any:
    """A hook that marks an instant and changes nothing."""
    return lambda *_: stopwatch.mark(name)


def _wait(device: torch.device) -> None:
    """Let the GPU finish what it has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
