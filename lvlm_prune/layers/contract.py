"""What a method inside the LLM is: a request for signals and one pure function on one prompt.

`select(signals, keep, **options)` is called right before a decoder layer runs and returns which
visual tokens go on. It sees one prompt at a time, without padding, so a prompt's choice cannot
depend on its neighbours in a batch. It knows no model, no cache and no config object.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Projected:
    """Query, key and value of one decoder layer's attention, for one prompt.

    Args:
        query: `[H, T, d]`, after rotary embedding, one row for each of the T columns.
        key: `[Hk, S, d]`, S >= T: columns of a cache stand before the prompt's own T.
        value: `[Hk, S, d]`.
        scale: factor of the logits, usually d ** -0.5.
        seen: `[T, S]` bool, keys that a row sees, where the layer has a mask of its own, such
            as a prefix read both ways; None for all up to the row's own.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    seen: Tensor | None = None

    @property
    def past(self) -> int:
        """Cached columns in front of the prompt's own."""
        return self.key.shape[1] - self.query.shape[1]

    def visible(self, columns: Tensor) -> Tensor:
        """Which keys some rows `[R]` see, `[R, S]` bool."""
        if self.seen is not None:
            return self.seen[columns]
        places = torch.arange(self.key.shape[1], device=self.key.device)
        return places <= (columns + self.past)[:, None]

    def logits(self, columns: Tensor) -> Tensor:
        """Attention logits of some rows over the keys that they see.

        Args:
            columns: `[R]` int64, in 0..T-1.

        Returns:
            `[H, R, S]`, float32; keys that a row does not see are -inf.
        """
        heads, kv_heads = self.query.shape[0], self.key.shape[0]
        rows = self.query[:, columns].float()
        grouped = rows.reshape(kv_heads, heads // kv_heads * len(columns), -1)
        logits = (grouped @ self.key.float().transpose(-1, -2)) * self.scale
        logits = logits.view(heads, len(columns), -1)
        return logits.masked_fill(~self.visible(columns), -torch.inf)

    def weights(self, columns: Tensor) -> Tensor:
        """Attention weights of some rows, `[H, R, S]`, float32; each row sums to 1."""
        return self.logits(columns).softmax(dim=-1)

    def values(self) -> Tensor:
        """Values repeated for each query head, `[H, S, d]`, float32."""
        return self.value.float().repeat_interleave(self.query.shape[0] // self.value.shape[0], 0)


@dataclass(frozen=True)
class LayerRequest:
    """What a method reads before a decoder layer, besides the hidden states.

    Args:
        previous: query, key and value of the layer before, from its own fused kernel's inputs.
        following: query, key and value of the layer itself, computed ahead (one norm and three
            projections more).
        embeddings: the hidden states that entered layer 0.
        rotary: cosine and sine of the rotary embedding at each column, in the layer before.
    """

    previous: bool = False
    following: bool = False
    embeddings: bool = False
    rotary: bool = False


@dataclass(frozen=True)
class LayerSignals:
    """One prompt right before a decoder layer.

    Args:
        layer: number of the layer, from 0.
        depth: number of decoder layers.
        hidden: `[T, D]` hidden states that enter the layer, of the T columns still there.
        images: for each image, its visual tokens that are still there, columns `[n]` ascending.
        totals: for each image, the visual tokens that entered the LLM.
        text: columns of text tokens, ascending; never empty.
        projected: query, key and value by `previous` (the layer before) and `following` (this
            layer), as requested.
        entered: `[T, D]` what entered layer 0 at these columns, if requested.
        rotary: cosine and sine `[T, d]` that the layer before got for these columns, those of
            `previous`, if requested; None also where the LLM has no rotary embedding.
        observed: for each layer of the method's `observed` that has run, what its `observe` gave
            at these columns, `[T]`.
        sinks: `[T]` bool, LLM visual sinks, or None where they are not excluded.
        memory: what this method's last `select` for this prompt returned as memory, or None.
    """

    layer: int
    depth: int
    hidden: Tensor
    images: list[Tensor]
    totals: list[int]
    text: Tensor
    projected: Mapping[str, Projected] = field(default_factory=dict)
    entered: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    observed: Mapping[int, Tensor] = field(default_factory=dict)
    sinks: Tensor | None = None
    memory: Any = None

    @property
    def visual(self) -> Tensor:
        """Columns of all visual tokens that are still there, `[n]` ascending."""
        return torch.cat(self.images)

    @property
    def previous(self) -> Projected:
        """Of the layer before; only if it was requested."""
        return self.projected["previous"]

    @property
    def following(self) -> Projected:
        """Of this layer; only if it was requested."""
        return self.projected["following"]

    @property
    def embeddings(self) -> Tensor:
        """What entered layer 0 at these columns, `[T, D]`; only if it was requested."""
        if self.entered is None:
            raise KeyError("embeddings were not requested")
        return self.entered


@dataclass(frozen=True)
class LayerSelection:
    """The visual tokens of one prompt that go on.

    Args:
        kept: columns `[K]` int64, ascending and unique, out of `signals.visual`.
        scores: `[n]` float32 for `signals.visual`, higher is kept, or None.
        merged: columns `[M]`, out of `kept`, whose hidden states are replaced, or None.
        rows: `[M, D]` the new hidden states, with `merged`.
        memory: handed to the next `select` of the same prompt in the same call.
    """

    kept: Tensor
    scores: Tensor | None = None
    merged: Tensor | None = None
    rows: Tensor | None = None
    memory: Any = None


class LayerSelect(Protocol):
    """The function of a method."""

    def __call__(
        self, signals: LayerSignals, keep: Sequence[int], **options: Any
    ) -> LayerSelection:
        """Choose the tokens of one prompt that go on.

        Args:
            signals: the prompt.
            keep: for each image, how many tokens go on, at most as many as are still there;
                empty for a method that decides itself.
            **options: the method's settings, complete.
        """


class Observe(Protocol):
    """What a method notes of a decoder layer while it runs."""

    def __call__(
        self,
        attention_in: Tensor,
        attention_out: Tensor,
        ffn_in: Tensor,
        ffn_out: Tensor,
        real: Tensor,
    ) -> Tensor:
        """A number for each token, `[B, T]`, from the inputs and outputs of attention and MLP.

        The first four tensors are `[B, T, D]`; inputs are the normed ones, outputs those before the
        residual. `real` is `[B, T]` bool and False at padding, whose numbers are never read.
        """


@dataclass(frozen=True)
class LayerMethod:
    """A method inside the LLM and everything the rest of the project may know about it.

    Args:
        name: the name in Python, on the command line and in result files.
        summary: one line for `lvlm-prune methods`.
        source: paper, equation or code it follows.
        select: the pure function.
        stages: the default schedule for an LLM of some depth: for each layer before which tokens
            are dropped, the share of the visual tokens that entered the LLM which goes on, or None
            where the method decides itself.
        request: what it reads.
        options: option names with their defaults; other names are errors.
        ranked: whether it ranks by attention, so that LLM sinks must not eat the budget.
        observe: for methods that note something of layers while they run.
        observed: layers before a schedule's stages that `observe` is called for, given the stages
            (layers, ascending) and the depth.
        blind: layers at which text rows do not see visual keys, given the options and the depth.
        check: raises ValueError or TypeError for values of options that make no sense.
    """

    name: str
    summary: str
    source: str
    select: LayerSelect
    stages: Callable[[int], Mapping[int, float | None]]
    request: LayerRequest = LayerRequest()
    options: Mapping[str, Any] = field(default_factory=dict)
    ranked: bool = False
    observe: Observe | None = None
    observed: Callable[[Sequence[int], int], Collection[int]] | None = None
    blind: Callable[[Mapping[str, Any], int], Collection[int]] | None = None
    check: Callable[[Mapping[str, Any]], None] | None = None

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Merge options with the defaults; unknown names and wrong values are errors."""
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            allowed = ", ".join(self.options) or "none"
            raise ValueError(
                f"layer method {self.name!r} has no options {unknown}; allowed: {allowed}"
            )
        complete = {**self.options, **options}
        if self.check is not None:
            self.check(complete)
        return complete


def scaled_layer(layer: int, of: int, depth: int) -> int:
    """A layer of a paper's LLM of `of` layers in an LLM of `depth`, from 1 to depth - 1."""
    return min(max(1, round(layer * depth / of)), depth - 1)


def scaled_stages(
    stages: Mapping[int, float | None], of: int, depth: int
) -> dict[int, float | None]:
    """A paper's schedule in a shallower LLM; of stages that fall together the last one stays."""
    return {scaled_layer(layer, of, depth): share for layer, share in sorted(stages.items())}
