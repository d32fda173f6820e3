"""Signals drawn at random, and what must hold of any selection made from them."""

import torch
from torch import Tensor

from lvlm_prune.methods import EncoderShape, Method, Selection
from lvlm_prune.signals import Signals, row_norms

WITH_CLS = EncoderShape(depth=24, feature_layer=22, has_cls=True)
WITHOUT_CLS = EncoderShape(depth=8, feature_layer=7, has_cls=False, windowed=(4, 5, 6, 7))


def random_signals(
    grid: tuple[int, int], images: int = 3, has_cls: bool = True, dtype=torch.float32
) -> Signals:
    """Every signal an encoder with (or without) a CLS token can give; texts of different length."""
    n = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(n)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    hidden = normal(images, n, 6)
    attention = torch.rand(images, 1, 2, n, generator=generator)
    return Signals(
        features=normal(images, n, 10),
        hidden=hidden,
        grid=grid,
        norms=row_norms(hidden),
        cls_hidden=normal(images, 6) if has_cls else None,
        cls=attention if has_cls else None,
        received=None if has_cls else attention.mean(dim=2),
        joint=torch.rand(images, n, generator=generator) if has_cls else None,
        keys=normal(images, 2, n, 4),
        text=[normal(2 + 3 * number, 10) for number in range(images)],
    )


def equal_signals(grid: tuple[int, int]) -> Signals:
    """Two images whose tokens are all the same."""
    n = grid[0] * grid[1]
    ones = torch.ones(2, n, 5)
    return Signals(
        features=ones,
        hidden=ones,
        grid=grid,
        norms=row_norms(ones),
        cls=torch.full((2, 1, 2, n), 0.5 / n),
        joint=torch.full((2, n), 0.5 / n),
        keys=torch.ones(2, 2, n, 3),
        text=[torch.ones(3, 5), torch.ones(0, 5)],
    )


def check_every_budget(method: Method, signals: Signals, **options) -> None:
    """Exactly K rows for every K, and each image's rows are those it gets alone."""
    options = method.complete(options)
    images, n, _ = signals.features.shape
    for keep in range(1, n + 1):
        choice = method.select(signals, keep, **options)
        check_rows(choice, images, n, keep)
        for image in range(images):
            alone = method.select(signals.images([image]), keep, **options)
            assert alone.kept[0].tolist() == choice.kept[image].tolist()
            if choice.hidden is not None:
                assert (alone.hidden[0] - choice.hidden[image]).abs().max() < 1e-5


def check_rows(choice: Selection, images: int, n: int, keep: int) -> None:
    """Kept rows are ascending, unique and in range; merged rows are finite and not zero."""
    assert choice.kept.shape == (images, keep)
    for kept in choice.kept.tolist():
        assert kept == sorted(set(kept))
        assert 0 <= kept[0] <= kept[-1] < n
    if choice.scores is not None:
        assert choice.scores.shape == (images, n)
        assert choice.scores.dtype == torch.float32
    if choice.hidden is not None:
        assert choice.hidden.isfinite().all()
        assert (choice.hidden.abs().sum(dim=-1) > 0).all(), "a row of zeros"
