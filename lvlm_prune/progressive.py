"""Drop units step by step while an encoder runs, under its own kernels.

In: a method's step, the units that are to stay of each image, and what makes a unit. Out, through
the taps: for each layer the keys that take part, and in the end a score for every patch, in which
survivors stand above all others. A dropped patch is masked as a key of all later layers, so the
others become what they would be without it, whatever the encoder's windows, mergers or batches.
Knows no method's formula.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.methods.contract import EncoderLayer, EncoderShape, Step, UnitState
from lvlm_prune.readings import AttentionReader
from lvlm_prune.signals import SignalRequest
from lvlm_prune.tap import Recorder


@dataclass(frozen=True)
class TileSize:
    """A tile (or frame) as the encoder sees it.

    Args:
        units: what can be dropped inside the encoder.
        tokens: visual tokens that the prompt has for it.
    """

    units: int
    tokens: int


@dataclass(frozen=True)
class EncoderBudget:
    """What is to be dropped inside the encoder.

    Args:
        step: the method's step.
        keep: the config's budget.
        per: what it counts, `image` or `tile`.
    """

    step: Step
    keep: int | float
    per: str

    def units_to_keep(self, images: list[list[TileSize]]) -> list[int]:
        """Units that stay of each tile; an image's budget is shared among its tiles.

        Args:
            images: the tiles of each image.
        """
        counts = []
        for tiles in images:
            total = sum(tile.tokens for tile in tiles)
            for tile in tiles:
                # Exact fractions, rounded up: the image's own budget is enforced where tiles meet.
                whole = tile.tokens if self.per == "tile" else total
                keep = tokens_to_keep(
                    self.keep if isinstance(self.keep, float) else min(self.keep, whole), whole
                )
                counts.append(-(-keep * tile.units // whole))
        return counts


class ProgressiveReader(AttentionReader):
    """Runs a method's step in every layer of an encoder.

    Args:
        request: the signals that are wanted.
        shape: the encoder's.
        step: the method's step.
        keep: units that stay of each tile, in the order of the encoder's sequences.
        unit_of: unit of each patch of a sequence of P patches, `[P]`.
    """

    def __init__(
        self,
        request: SignalRequest,
        shape: EncoderShape,
        step: Step,
        keep: list[int],
        unit_of: Callable[[int], Tensor],
    ) -> None:
        super().__init__(request, shape.has_cls)
        self.step, self.keep, self.unit_of = step, keep, unit_of
        below = [n for n in range(shape.feature_layer) if n not in shape.windowed]
        # Windows rank nothing globally, so only the other layers count and cut.
        self.steps = below or [shape.global_layer(shape.feature_layer)]
        self.windowed = shape.windowed
        self._states: list[UnitState] = []
        self._patches: list[int] = []
        self._seen: dict[int, int] = {}

    def recorders(self, modules: Mapping[int, nn.Module]) -> dict[nn.Module, Recorder]:
        """One recorder for each layer; it returns the keys that take part."""
        return {
            module: partial(self._window if layer in self.windowed else self._layer, layer)
            for layer, module in modules.items()
        }

    def _layer(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor | None:
        """Run the step on the next sequences of a layer that attends globally.

        Returns:
            Keys that take part in this layer, `[I, T]` bool, or None if all do.
        """
        call = self._seen.get(layer, 0)
        self._seen[layer] = call + 1
        count, patches = query.shape[0], query.shape[2] - self.first
        unit_of = self.unit_of(patches).to(query.device)
        if call == len(self._states):
            alive = torch.ones(count, int(unit_of.max()) + 1, dtype=torch.bool, device=query.device)
            self._states.append(UnitState(None, alive))
            self._patches.append(patches)
        state = self._states[call]
        if layer in self.steps:
            start = sum(len(before.alive) for before in self._states[:call])
            keep = torch.tensor(self.keep[start : start + count], device=query.device)
            remaining = len(self.steps) - 1 - self.steps.index(layer)
            about = EncoderLayer(remaining, keep, bool(self.first), unit_of)
            self._states[call] = self.step(query, key, value, scale, about, state)
        if bool(state.alive.all()):
            return None
        mask = state.alive[:, unit_of]
        return torch.cat([mask.new_ones(count, self.first), mask], dim=1)

    def _window(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor | None:
        """Keys of the next window of a layer; windows follow each other like the sequences."""
        start = self._seen.get(layer, 0)
        self._seen[layer] = start + query.shape[2]
        if not self._states:
            return None
        mask = self._over_patches([state.alive for state in self._states])
        own = mask[:, start : start + query.shape[2]]
        # A window without survivors has nothing to look at; its rows are seen by none.
        return own if bool(own.any()) and not bool(own.all()) else None

    def _over_patches(self, rows: list[Tensor]) -> Tensor:
        """Values of units at their patches: `[I, U]` of each call to `[I, P]`, or all in a row."""
        found = [
            values[:, self.unit_of(patches).to(values.device)]
            for values, patches in zip(rows, self._patches, strict=True)
        ]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def signals(self, norms: Tensor, sink_threshold: float | None = None) -> dict[str, Tensor]:
        """See `AttentionReader.signals`; adds `progress` `[I, P]`."""
        found, rows = super().signals(norms, sink_threshold), []
        for state in self._states:
            assert state.cumulative is not None
            # Scores are positive; below 1 after this, so that survivors stand above all others.
            scores = state.cumulative / (1 + state.cumulative)
            rows.append(scores + state.alive.float())
        found["progress"] = self._over_patches(rows)
        return found
