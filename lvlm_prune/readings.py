"""What the tapped layers of an encoder showed during one pass, as numbers a patch.

In: query, key and value of each layer that a request names, one call a layer for a batch of tiles
`[I, H, T, d]`, or one call a sequence where an encoder packs images (Qwen-VL), `[1, H, T, d]` each.
Out: tensors over the P patches: I tiles, or one row that joins all sequences. The CLS token, which
is row 0 where there is one, is cut off. Knows nothing of mergers or prompts.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from lvlm_prune.attention import (
    cls_row,
    joint_cls_row,
    received_attention,
    received_sinks,
    sink_rows,
)
from lvlm_prune.signals import SignalRequest
from lvlm_prune.sinks import vit_sinks
from lvlm_prune.tap import Recorder

Sequence = tuple[Tensor, Tensor, float]


class AttentionReader:
    """Collects what a request asks of the tapped layers.

    Args:
        request: the signals that are wanted.
        has_cls: whether row 0 of a sequence is a CLS token.
    """

    def __init__(self, request: SignalRequest, has_cls: bool) -> None:
        self.request = request
        self.first = int(has_cls)
        self._rows: dict[str, list[Tensor]] = defaultdict(list)
        self._sequences: list[Sequence] = []

    def recorders(self, modules: Mapping[int, nn.Module]) -> dict[nn.Module, Recorder]:
        """One recorder for each tapped layer."""
        return {module: partial(self._record, layer) for layer, module in modules.items()}

    def _record(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        """Turn query and key of one call into the numbers that were asked of the layer."""
        request, first = self.request, self.first
        if layer in request.cls_layers:
            self._rows[f"cls{layer}"].append(cls_row(query, key, scale))
        if layer in request.received_layers:
            received = received_attention(query, key, scale, request.received_rows)
            self._rows[f"received{layer}"].append(received[:, first:])
        if layer == request.joint_layer:
            self._rows["joint"].append(joint_cls_row(query, key, scale))
        if layer == request.keys_layer:
            self._rows["keys"].append(key[:, :, first:])
        if layer == request.sinks_layer and request.sinks_ratio is not None:
            sinks = received_sinks(query, key, scale, request.sinks_ratio)
            sinks[:, :first] = False  # the CLS token is no patch
            self._rows["given"].append(sink_rows(query, key, scale, sinks)[..., first:])
        elif layer == request.sinks_layer:
            self._sequences.append((query, key, scale))

    def signals(self, norms: Tensor, sink_threshold: float | None = None) -> dict[str, Tensor]:
        """The fields of `Signals` that come from attention, over patches.

        Args:
            norms: L2 norms of the encoder rows, `[I, P]`, in the order of the sequences.
            sink_threshold: for the attention that ViT sinks by norm give.

        Returns:
            Those of `cls` `[I, M, H, P]`, `received` `[I, M, P]`, `joint` `[I, P]`, `keys`
            `[I, H, P, d_head]` and `sinks_given` `[I, H, P]` that were asked for.
        """
        found: dict[str, Tensor] = {}
        if self.request.cls_layers:
            layers = [_joined(self._rows[f"cls{n}"], -1) for n in self.request.cls_layers]
            found["cls"] = torch.stack(layers, dim=1)
        if self.request.received_layers:
            layers = [_joined(self._rows[f"received{n}"], -1) for n in self.request.received_layers]
            found["received"] = torch.stack(layers, dim=1)
        if self._rows["joint"]:
            found["joint"] = _joined(self._rows["joint"], -1)
        if self._rows["keys"]:
            found["keys"] = _joined(self._rows["keys"], 2)
        if self._sequences:
            self._rows["given"] = self._given_by_norm(norms, sink_threshold)
        if self._rows["given"]:
            found["sinks_given"] = _joined(self._rows["given"], -1)
        return found

    def _given_by_norm(self, norms: Tensor, threshold: float | None) -> list[Tensor]:
        """The attention that ViT sinks give, whose norms are known only after the pass."""
        rows, start = [], 0
        for query, key, scale in self._sequences:
            count = query.shape[2] - self.first
            sinks = vit_sinks(norms[:, start : start + count], threshold)
            front = sinks.new_zeros(sinks.shape[0], self.first)
            given = sink_rows(query, key, scale, torch.cat([front, sinks], dim=1))
            rows.append(given[..., self.first :])
            start += count
        return rows


def _joined(rows: list[Tensor], dim: int) -> Tensor:
    """One tensor from the calls of a layer."""
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=dim)
