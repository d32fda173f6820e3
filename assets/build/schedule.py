"""Optimisers, learning-rate schedule and checkpoints shared by the two training stages.

In: named parameters and a time budget. Out: Muon for the inner matrices, AdamW for the rest, both
under one warm-up and cosine schedule on the processor time of one process, so that `--minutes`
fixes the run whatever else the machine does. That time is part of a checkpoint, so that an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def optimizers(
    groups: Iterable[tuple[nn.Module, float]], muon_lr: float, adam_lr: float
) -> list[torch.optim.Optimizer]:
    """Splits the parameters of (module, rate factor) pairs between Muon and AdamW.

    Two-dimensional weights of attention and MLP layers go to Muon; embeddings, norms, biases,
    convolutions and heads (modules named "heads") go to AdamW. A module may contain another one
    of the list; the first of them sets the rate of a shared parameter.
    """
    muon: list[dict[str, Any]] = []
    adam: list[dict[str, Any]] = []
    listed: set[int] = set()
    for module, factor in groups:
        inner: list[Tensor] = []
        outer: list[Tensor] = []
        for name, parameter in module.named_parameters():
            if id(parameter) in listed:
                continue
            listed.add(id(parameter))
            matrix = (
                parameter.ndim == 2
                and "embed" not in name
                and not isinstance(module, nn.ModuleDict)
            )
            (inner if matrix else outer).append(parameter)
        if inner:
            muon.append({"params": inner, "lr": muon_lr * factor})
        if outer:
            adam.append({"params": outer, "lr": adam_lr * factor})
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(adam, betas=(0.9, 0.98))]
    if muon:
        found.append(torch.optim.Muon(muon, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return found


class Clock:
    """Processor time of the training and the learning-rate factor at it.

    `spent` is set once per step by `tick`, so that several processes can agree on it.
    """

    def __init__(self, minutes: float, spent: float = 0.0, plateau: float = 0.45) -> None:
        """Starts the clock with a budget in minutes, `spent` seconds of it used already.

        Args:
            minutes: the budget.
            spent: seconds used before.
            plateau: share of the budget after which the learning rate decays.
        """
        self.plateau = plateau
        self.budget = minutes * 60
        self.spent = spent
        self._start = time.process_time() - spent

    def now(self) -> float:
        """Seconds used by this process."""
        return time.process_time() - self._start

    @property
    def progress(self) -> float:
        """Share of the budget used, at most 1."""
        return min(1.0, self.spent / self.budget)

    def apply(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Sets warm-up (2 %), plateau and cosine decay on every group."""
        p = self.progress
        decay = 0.5 + 0.5 * math.cos(math.pi * max(0.0, p - self.plateau) / (1 - self.plateau))
        factor = min(1.0, p / 0.02 + 0.02) * max(decay, 0.02)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint so that an interruption leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of `save_checkpoint` (tensors and plain values only)."""
    return torch.load(path, map_location="cpu", weights_only=True)
