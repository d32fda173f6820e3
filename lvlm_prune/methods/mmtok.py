"""Keep the tokens that cover the question and the image best (MMTok).

In: projected features `[I, N, D]`, the LLM's embeddings of the question, and encoder rows
`[I, N, d]`. Out: the K rows of greedy maximum coverage (facility location): every text token and
every visual token is covered as well as the kept row that resembles it most (MMTok, arXiv
2508.18264; official code d1522cd; written from the formulas).

    P[t, j] = softmax_j(cos(text_t, feature_j) / 0.02) / T      text t is covered by token j
    Q[i, j] = softmax_j(cos(hidden_i, hidden_j) / 0.2) / N      token i is covered by token j
    coverage(kept) = sum_t max_j P[t, j] + 0.5 sum_i max_j Q[i, j],  j in kept

Temperatures and weight are those of the official core at every budget and model. An image without
text is covered for itself alone. The official code masks padding patches and takes one image; this
one is never given padding and takes batches.

The gain of a row can only shrink as more rows are kept, so that gains of earlier steps bound it:
each step computes the gains of the most promising rows alone, until no other can win. The kept rows
are those of the plain greedy algorithm.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lvlm_prune.methods.contract import EncoderShape, Method, Selection
from lvlm_prune.methods.similarity import LEAST_NORM, cosine_similarity, unit_rows
from lvlm_prune.select import order_scores, take_rows
from lvlm_prune.signals import SignalRequest, Signals, row_norms

FIRST_ROWS = 16  # rows whose gains a step computes at first; doubled until the best is certain
ROUNDING = 1e-5  # relative error that a bound may have from summing in another order


def text_cover(features: Tensor, text: list[Tensor], temperature: float) -> Tensor:
    """How well each visual token covers each text token.

    Args:
        features: `[I, N, D]`.
        text: for each image, `[T, D]`.
        temperature: of the softmax over visual tokens.

    Returns:
        `[I, N, T]` float32 for the longest text, zeros for the shorter ones.
    """
    rows = features.detach().float()
    norms = row_norms(rows).clamp(min=LEAST_NORM)
    covers = []
    for image, pieces in enumerate(text):
        cosine = unit_rows(pieces) @ rows[image].T / norms[image]
        covers.append((cosine / temperature).softmax(dim=-1) / max(1, pieces.shape[0]))
    return pad_sequence(covers, batch_first=True).transpose(1, 2)


def image_cover(hidden: Tensor, temperature: float) -> Tensor:
    """How well each visual token (dim 1) covers each visual token (dim 2).

    Args:
        hidden: `[I, N, d]`.
        temperature: of the softmax over covering tokens.

    Returns:
        `[I, N, N]` float32.
    """
    cover = (cosine_similarity(hidden) / temperature).softmax(dim=-1) / hidden.shape[1]
    return cover.transpose(1, 2)


def max_coverage_order(cover: Tensor, k: int) -> Tensor:
    """Rows in the order in which they raise the coverage most.

    Args:
        cover: `[I, N, R]` float32, not negative: how well row n covers each of R things.
        k: rows to pick, 1 <= k <= N.

    Returns:
        `[I, k]` int64, in order of picking; equal gains go to the earlier row.
    """
    images = torch.arange(cover.shape[0], device=cover.device)
    order = torch.empty(cover.shape[0], k, dtype=torch.int64, device=cover.device)
    covered = torch.zeros_like(cover[:, 0])
    bound = cover.sum(dim=-1)
    for step in range(k):
        pick = _best_row(cover, covered, bound)
        order[:, step] = pick
        covered = torch.maximum(covered, cover[images, pick])
        bound[images, pick] = -torch.inf
    return order


def _best_row(cover: Tensor, covered: Tensor, bound: Tensor) -> Tensor:
    """The row with the largest gain, `[I]`.

    Args:
        cover: `[I, N, R]`.
        covered: how well each thing is covered so far, `[I, R]`.
        bound: upper bounds of the gains, `[I, N]`, -inf for picked rows; tightened in place.
    """
    n, size = cover.shape[1], FIRST_ROWS
    while True:
        top = bound.topk(min(size + 1, n), dim=-1)
        rows = top.indices[:, :size]
        gain = (take_rows(cover, rows) - covered.unsqueeze(1)).clamp_(min=0).sum(dim=-1)
        gain = torch.where(top.values[:, :size] < 0, -torch.inf, gain)
        bound.scatter_(1, rows, gain)
        if size >= n:
            break
        # A bound of 0 is exact, for gains are never negative.
        next_bound = top.values[:, size]
        certain = gain.amax(dim=-1) > next_bound * (1 + ROUNDING)
        if bool((certain | (next_bound <= 0)).all()):
            break
        size *= 2
    return bound.argmax(dim=-1)


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Ask for the embeddings of the question."""
    for name in ("tv_temp", "vv_temp", "alpha"):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not 0 <= float(value) < float("inf") or (name != "alpha" and float(value) == 0):
            least = "0 or more" if name == "alpha" else "more than 0"
            raise ValueError(f"{name} must be {least} and finite, got {value!r}")
    return SignalRequest(text=True)


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the picked rows; a row's score is higher the earlier it was picked, 0 if never."""
    assert signals.text is not None
    cover = torch.cat(
        [
            text_cover(signals.features, signals.text, options["tv_temp"]),
            options["alpha"] * image_cover(signals.hidden, options["vv_temp"]),
        ],
        dim=2,
    )
    order = max_coverage_order(cover, keep)
    return Selection(kept=order.sort(dim=-1).values, scores=order_scores(order, cover.shape[1]))


METHOD = Method(
    name="mmtok",
    summary="tokens that cover the question and the image best",
    source="MMTok, arXiv 2508.18264",
    select=select,
    request=request,
    options={"tv_temp": 0.02, "vv_temp": 0.2, "alpha": 0.5},
)
