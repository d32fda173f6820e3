"""PruneReport: what one call did, in numbers that were counted or measured.

Made once a call by the attachment and never changed. Times are wall-clock milliseconds of the
stages before the LLM; on a GPU the device is synchronised at their borders.
"""

import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_prune.config import PruneConfig
from lvlm_prune.layers.report import LayerReport

MIB = 2**20


@dataclass(frozen=True, eq=False)
class PruneReport:
    """The last call of an attachment.

    Args:
        config: what was asked for.
        kept: for each image, the kept tokens in LLM-token coordinates, ascending.
        tokens_before: visual tokens of all images.
        tokens_after: visual tokens that reach the LLM.
        prompt_before: columns of the prompt, padding included.
        prompt_after: columns of the shortened prompt.
        encode_ms: vision encoder and projector, with the signals that were read.
        select_ms: scores, selection and merging.
        splice_ms: shortening the prompt.
        peak_mib: peak memory of the process so far, LLM included once `generate` has returned:
            allocated on the GPU, or the resident set.
        scores: for each image, the scores `[N]`, or None where the method ranks no tokens.
        sinks: for each image, ViT sinks `[N]`, or None where the config ignores them.
        layers: what stages inside the LLM did, or None without any.
    """

    config: PruneConfig
    kept: list[Tensor]
    tokens_before: int
    tokens_after: int
    prompt_before: int
    prompt_after: int
    encode_ms: float
    select_ms: float
    splice_ms: float
    peak_mib: float
    scores: list[Tensor | None]
    sinks: list[Tensor | None]
    layers: LayerReport | None = None

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.config.method

    def __str__(self) -> str:
        """One line for a script to print."""
        share = self.tokens_after / self.tokens_before
        inside = "" if self.layers is None else f"; {self.layers}"
        return (
            f"{self.method}: {self.tokens_before} -> {self.tokens_after} visual tokens "
            f"({share:.1%}) in {len(self.kept)} image(s), prompt {self.prompt_before} -> "
            f"{self.prompt_after}; encode {self.encode_ms:.1f} ms, select {self.select_ms:.1f} ms, "
            f"splice {self.splice_ms:.1f} ms; peak {self.peak_mib:.0f} MiB{inside}"
        )


def clock_ms(device: torch.device) -> float:
    """Milliseconds now, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1000


def peak_mib(device: torch.device) -> float:
    """Peak memory in MiB: allocated on a GPU, or the resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if sys.platform == "win32":
        import psutil  # comes with accelerate

        return psutil.Process().memory_info().peak_wset / MIB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak * 1024 / MIB
