"""Keep a few pivots and the tokens least like them (DART), before the LLM.

In: projected features `[I, N, D]` and, for text pivots, the embeddings of the prompt's text tokens.
Out: K tokens, nothing merged (DART, arXiv 2502.11494; official code as in VTC-Bench 983e443). The
pivots are the 4 visual tokens and the 4 text tokens with the largest L1 norm; the visual ones are
kept, and every pivot in turn takes the tokens left with the lowest cosine similarity to it, each an
equal share of the rest. Attention is not used, so any encoder will do. `text_pivots=0` makes the
choice independent of the prompt.

The official code prunes inside the LLM: norms are those of a layer's keys, similarities those of
its hidden states. This form takes the LLM's input for both. Other differences: pivots take turns by
descending norm, visual ones first, where the official order is that of a Python set; the budget
counts the visual pivots and is met exactly, earlier pivots taking one token more, where the
official shares are rounded down and the visual pivots come on top (132 tokens for 128); prompts
with fewer text tokens have fewer text pivots.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lvlm_prune.methods.contract import EncoderShape, Method, Selection
from lvlm_prune.methods.similarity import unit_rows
from lvlm_prune.select import take_rows
from lvlm_prune.signals import SignalRequest, Signals


def largest_rows(rows: Tensor, count: int) -> Tensor:
    """Rows with the largest L1 norm, largest first; `[..., N, D]` to `[..., count]` int64."""
    norms = rows.detach().float().abs().sum(dim=-1)
    return norms.argsort(dim=-1, descending=True, stable=True)[..., :count]


def equal_shares(pivots: Tensor, total: int) -> Tensor:
    """Split a budget among each image's pivots; earlier ones take one more.

    Args:
        pivots: number of pivots of each image, `[I]`, at least 1.
        total: the budget.

    Returns:
        `[I, P]` int64 with P the largest number of pivots; each row's sum is `total`.
    """
    turn = torch.arange(int(pivots.max()), device=pivots.device)
    count = pivots.unsqueeze(1)
    shares = total // count + (turn < total % count).long()
    return shares.where(turn < count, torch.zeros_like(shares))


def least_similar(features: Tensor, pivots: Tensor, shares: Tensor, kept: Tensor) -> Tensor:
    """The turn in which each token is taken.

    Args:
        features: `[I, N, D]`, any dtype; similarities are float32.
        pivots: vectors in the order of their turns, `[I, P, D]`.
        shares: tokens that each pivot takes, `[I, P]`.
        kept: tokens that are kept from the start, `[I, k]`.

    Returns:
        `[I, N]` int64: 0 for those in `kept`, p + 1 for those that pivot p takes, P + 1 for the
        rest.
    """
    unit = unit_rows(features)
    cosine = unit_rows(pivots) @ unit.transpose(1, 2)
    images, turns, n = cosine.shape
    taken = torch.full((images, n), turns + 1, device=features.device).scatter_(1, kept, 0)
    place = torch.arange(n, device=features.device)
    for turn in range(turns):
        free = cosine[:, turn].masked_fill(taken <= turn, torch.inf)
        order = free.argsort(dim=-1, stable=True)
        mine = place < shares[:, turn : turn + 1]
        turn_of = taken.gather(1, order).masked_fill(mine, turn + 1)
        taken = taken.scatter(1, order, turn_of)
    return taken


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the text's embeddings where there are text pivots."""
    for name, least in (("image_pivots", 1), ("text_pivots", 0)):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"{name} must be a whole number of {least} or more, got {value!r}; 4 is usual, "
                "text_pivots=0 reads no text"
            )
    return SignalRequest(text=options["text_pivots"] > 0)


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the visual pivots and share the rest of the budget among all pivots."""
    features = signals.features
    images, n, _ = features.shape
    kept = largest_rows(features, min(options["image_pivots"], keep))
    pivots = list(take_rows(features, kept).float())
    if options["text_pivots"]:
        assert signals.text is not None
        for number, text in enumerate(signals.text):
            words = text[largest_rows(text, options["text_pivots"])].float()
            pivots[number] = torch.cat([pivots[number], words])
    count = torch.tensor([len(vectors) for vectors in pivots], device=features.device)
    shares = equal_shares(count, keep - kept.shape[1])
    turn = least_similar(features, pad_sequence(pivots, batch_first=True), shares, kept)
    # A pivot without a share in this image takes nothing, so the turns to count are its own.
    chosen = turn <= count.unsqueeze(1)
    scores = torch.where(chosen, 1 / (turn + 1), torch.zeros((), device=turn.device))
    return Selection(kept=chosen.nonzero()[:, 1].view(images, keep), scores=scores)


METHOD = Method(
    name="dart",
    summary="pivots by norm and the tokens least like them",
    source="DART, arXiv 2502.11494",
    select=select,
    options={"image_pivots": 4, "text_pivots": 4},
    request=request,
)
