"""Find an LLM's sink dimensions and their threshold in residual streams of ordinary text.

In: for each decoder layer the states that enter it, one `[T, D]` a prompt. Out: the dimensions in
which tokens of outlying norm hold their energy (massive activations, arXiv 2402.17762), and tau, a
value of phi between ordinary tokens and outliers. A dimension must hold a share of the outliers'
energy and stand out against ordinary tokens: without the second test a dimension with a constant
offset in every token would count. It knows no model; what attention does is `sink_check`'s matter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_prune.llm_sinks import phi, residual_norms

NORM_RATIO = 3.0  # an outlier has at least this times the median norm of its prompt
SHARE = 0.10  # smallest median share of an outlier's energy in one dimension
CONTRAST = 5.0  # smallest ratio of magnitudes between outliers and ordinary tokens
VOTES = 0.40  # share of the layers that have to agree on a dimension
MOST = 4  # dimensions
ORDINARY, OUTLYING = 0.99, 0.05  # quantiles of phi on both sides of tau


@dataclass(frozen=True)
class DimensionEvidence:
    """What was measured of one dimension.

    Args:
        dim: the dimension.
        votes: layers where it passed the tests.
        share: share of an outlier's energy, the median over layers with outliers.
        contrast: ratio of magnitudes between outliers and ordinary tokens, likewise.
        seed: whether a published table proposed it; otherwise it was found.
    """

    dim: int
    votes: int
    share: float
    contrast: float
    seed: bool


@dataclass(frozen=True)
class Separation:
    """Where phi of ordinary tokens ends and that of outliers begins.

    Args:
        dims: sink dimensions.
        lo: 99 % of ordinary tokens are below.
        hi: 95 % of outliers are above.
    """

    dims: tuple[int, ...]
    lo: float
    hi: float

    @property
    def tau(self) -> float | None:
        """The geometric mean of both ends, or None where they overlap."""
        # A dimension that ordinary tokens never use would pull the mean to 0.
        lowest = max(self.lo, self.hi / 100)
        return math.sqrt(lowest * self.hi) if self.lo < self.hi else None


@dataclass(frozen=True)
class LayerSample:
    """The tokens of all prompts that enter one layer.

    Args:
        outliers: `[M, D]` float32.
        ordinary: `[O, D]` float32.
    """

    outliers: Tensor
    ordinary: Tensor

    def measured(self) -> tuple[Tensor, Tensor]:
        """Energy share and contrast of each dimension, `[D]` both; 0 without outliers."""
        if not len(self.outliers) or not len(self.ordinary):
            empty = torch.zeros(self.outliers.shape[1], device=self.outliers.device)
            return empty, empty
        energy = self.outliers.square()
        share = (energy / energy.sum(dim=-1, keepdim=True)).median(dim=0).values
        usual = self.ordinary.abs().median(dim=0).values.clamp(min=1e-6)
        return share, self.outliers.abs().median(dim=0).values / usual


def layer_sample(prompts: Sequence[Tensor]) -> LayerSample:
    """Part the tokens of each prompt by its median norm.

    Args:
        prompts: `[T, D]` each.
    """
    outliers, ordinary = [], []
    for rows in prompts:
        norms = residual_norms(rows)
        outlying = norms >= NORM_RATIO * norms.median()
        outliers.append(rows[outlying].float())
        ordinary.append(rows[~outlying].float())
    return LayerSample(torch.cat(outliers), torch.cat(ordinary))


def candidates(samples: Sequence[LayerSample], seeds: Sequence[int]) -> list[DimensionEvidence]:
    """Evidence on every dimension that passed in some layer, and on every seed.

    Args:
        samples: one for each layer.
        seeds: dimensions that a table proposes.

    Returns:
        Found dimensions first, those with the most votes first.
    """
    measured = [sample.measured() for sample in samples]
    share = torch.stack([pair[0] for pair in measured])
    contrast = torch.stack([pair[1] for pair in measured])
    stands_out = contrast >= CONTRAST
    votes = (stands_out & (share >= SHARE)).sum(dim=0)
    seed_votes = stands_out.sum(dim=0)
    present = torch.tensor([len(sample.outliers) > 0 for sample in samples], device=share.device)
    if not present.any():
        return []
    share, contrast = share[present].median(dim=0).values, contrast[present].median(dim=0).values
    found = {int(dim) for dim in votes.nonzero()[:, 0]}
    proposed = {dim for dim in seeds if 0 <= dim < len(votes)} - _agreed(votes, found, samples)
    evidence = [
        DimensionEvidence(
            dim,
            int((seed_votes if dim in proposed else votes)[dim]),
            float(share[dim]),
            float(contrast[dim]),
            dim in proposed,
        )
        for dim in sorted(found | proposed)
    ]
    return sorted(evidence, key=lambda one: (one.seed, -one.votes, -one.share))


def _agreed(votes: Tensor, dims: set[int], samples: Sequence[LayerSample]) -> set[int]:
    """Dimensions that enough layers vote for."""
    return {dim for dim in dims if int(votes[dim]) >= VOTES * len(samples)}


def separate(
    samples: Sequence[LayerSample], evidence: Sequence[DimensionEvidence]
) -> Separation | None:
    """Choose the dimensions and measure phi on both sides.

    Args:
        samples: one for each layer.
        evidence: from `candidates`.

    Returns:
        With the seeds that passed if sinks are separable with them, otherwise without; None where
        no dimension passed.
    """
    passed = [one for one in evidence if one.votes >= VOTES * len(samples)]
    choices = [passed[:MOST], [one for one in passed if not one.seed][:MOST]]
    found = [_measured(samples, tuple(one.dim for one in choice)) for choice in choices if choice]
    separable = [one for one in found if one.tau is not None]
    return next(iter([*separable, *found]), None)


def _measured(samples: Sequence[LayerSample], dims: tuple[int, ...]) -> Separation:
    """Both ends of phi over all layers."""
    ordinary = torch.cat([phi(sample.ordinary, dims) for sample in samples])
    outlying = torch.cat([phi(sample.outliers, dims) for sample in samples])
    return Separation(dims, float(ordinary.quantile(ORDINARY)), float(outlying.quantile(OUTLYING)))
