"""What a call of `generate` tells the reweighting that its passes meet.

The wrapper of `generate` knows what a pass alone does not: that this is a first answer to be
observed, a second branch to be left alone, or the real answer, which starts with the first one's
marks. Passes that others run in between, such as those of classifier-free guidance, have caches of
their own, or no image; they are left alone too. Runs live in a context variable, so that threads do
not see each other's. Knows nothing about methods.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lvlm_prune.decoder_call import DecoderCall
from lvlm_prune.decoder_memory import DecoderMemory, follow_beams, unfollow_beams

ANSWER, OBSERVE, ALONE = "answer", "observe", "alone"


@dataclass
class Run:
    """One call of the stock `generate`.

    Args:
        owner: the reweighting that it is for.
        purpose: `answer`, `observe` (nothing is edited) or `alone` (nothing is looked at either).
        marks: what the prompt's columns start with, `[B, P]` each.
        beams: whether rows of the cache change places.
        ended: `[B]` bool, prompts whose answer has ended; None for none.
        memory: of the last pass; None before the first one.
        cache: that all of its passes fill, or None.
        prompt: columns of the prompt, once it has passed.
    """

    owner: Any
    purpose: str
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    beams: bool = False
    ended: Tensor | None = None
    memory: DecoderMemory | None = None
    cache: Any = None
    prompt: int = 0

    def begin(self, call: DecoderCall) -> bool:
        """A pass begins; whether it is one of this call's answer."""
        if self.purpose == ALONE or not self._owns(call):
            return False
        if self.beams and self.memory is None and call.cache is not None:
            follow_beams(call.cache)
        self.memory, self.cache = call.memory, call.cache
        if not call.answer:
            return True
        self.prompt = call.past + call.answer
        batch, columns = call.memory.visual.shape
        for name, values in self.marks.items():
            start = values.repeat_interleave(batch // values.shape[0], 0)[:, :columns]
            full = start.new_zeros(batch, columns)
            full[:, : start.shape[1]] = start
            call.memory.marks[name] = full
        return True

    def _owns(self, call: DecoderCall) -> bool:
        """Whether a pass fills the cache of the first one, or without a cache brings its images."""
        if self.memory is None:
            return True
        if call.cache is not None or self.cache is not None:
            return call.cache is self.cache
        return bool(call.memory.visual.any()) or not bool(self.memory.visual.any())

    def end(self) -> None:
        """The call is over."""
        if self.beams and self.cache is not None:
            unfollow_beams(self.cache)


_run: ContextVar[Run | None] = ContextVar("lvlm_prune_reweight_run", default=None)


def current_run(owner: Any) -> Run | None:
    """The call of `generate` that this thread is in, if it is for this reweighting."""
    run = _run.get()
    return run if run is not None and run.owner is owner else None


@contextmanager
def running(run: Run) -> Iterator[Run]:
    """Passes inside the block belong to a call."""
    token = _run.set(run)
    try:
        yield run
    finally:
        _run.reset(token)
        run.end()
