"""What the demo knows of an answer: counted and measured numbers, on the CPU.

Values only, made by the engine and drawn by `pictures` and `cards`. Each says how many bytes it
holds, so that the cache can keep to its limit.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lvlm_prune.show_figure import Drawn

PLAIN = 2048  # bytes of a result without its tensors: strings, numbers and the key
UNSTEADY = 0.25  # rounds that differ by more were made on a busy machine
SURE = (
    0.5  # a question that yes and no answer together with at least this probability is a yes/no one
)


@dataclass(frozen=True, eq=False)
class Answered:
    """An answer of the model.

    Args:
        text: the answer.
        yes_no: probability that the first token says yes, and no; None where these are not single
            tokens.
        choice: which visual tokens entered the LLM, of all of the image.
        sinks: ViT sinks among the placeholders `[N]` bool, read once an image for the full model,
            or None.
    """

    text: str
    yes_no: tuple[float, float] | None
    choice: Drawn
    sinks: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Visual tokens that entered the LLM."""
        return len(self.choice.kept)

    @property
    def merged(self) -> Tensor:
        """The kept token of each visual token that was merged into another one, `[M]`."""
        groups = self.choice.groups
        if groups is None:
            return self.choice.kept[:0]
        others = torch.ones(self.choice.total, dtype=torch.bool)
        others[self.choice.kept] = False
        return groups[others & (groups >= 0)]

    @property
    def is_yes_no(self) -> bool:
        """Whether the model takes the question for one of yes or no."""
        return self.yes_no is not None and sum(self.yes_no) >= SURE

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        tensors = [self.choice.kept, *(rows for rows, _ in self.choice.tiles)]
        more = (self.choice.scores, self.choice.sinks, self.choice.groups, self.sinks)
        tensors += [tensor for tensor in more if tensor is not None]
        return PLAIN + len(self.text) + sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class Prefilled:
    """What one prompt costs up to its first new token.

    Args:
        encode: ms of the vision encoder and projector, with the signals that were read.
        select: ms of scores, selection and merging, and of shortening the prompt.
        prefill: ms of the LLM.
        first_token: ms of the whole wait, `generate` with one new token; with everything that a
            reweighting runs beside the answer.
        kv_bytes: bytes of the tensors in the KV cache behind it.
        prompt: columns of the prompt.
    """

    encode: float
    select: float
    prefill: float
    first_token: float
    kv_bytes: int
    prompt: int


@dataclass(frozen=True)
class Measured:
    """Medians of both models, measured in turn.

    Args:
        full: of the unpruned model.
        pruned: of the pruned one.
        rounds: how many rounds were measured.
        spread: how far the middle half of the rounds lies apart in the pruned model's share of
            the full model's time, as a share of its median.
    """

    full: Prefilled
    pruned: Prefilled
    rounds: int
    spread: float = 0.0
    nbytes: int = field(default=PLAIN, init=False)

    @property
    def steady(self) -> bool:
        """Whether the rounds agree well enough to be shown without a word."""
        return self.spread <= UNSTEADY


@dataclass(frozen=True)
class Asked:
    """Everything about one question: both answers and what they cost."""

    full: Answered
    pruned: Answered
    measured: Measured

    @property
    def same(self) -> bool:
        """Whether both answers are the same text."""
        return self.full.text == self.pruned.text
