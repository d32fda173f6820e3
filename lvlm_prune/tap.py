"""Read query, key and value of an attention module while its own kernel runs, or run it otherwise.

A tapped module gets a shallow copy of its config that names a registered attention function; the
function shows them to a recorder and then calls the implementation that the original
config names (sdpa, flash, eager). Every other module, the masks and the outputs stay as they were,
bit for bit. Installing is counted, so an attachment and `prune_inputs` can share a tap; recorders
and handlers live in context variables, so threads do not see each other's.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

TAP_NAME = "lvlm_prune_tap"
# Encoders that pack images look for "flash" in the name before they pass where sequences end.
FLASH_TAP_NAME = "lvlm_prune_flash_tap"
Recorder = Callable[[Tensor, Tensor, Tensor, float], Tensor | None]

_recorders: ContextVar[Mapping[int, Recorder]] = ContextVar("lvlm_prune_recorders")
_handlers: ContextVar[Mapping[int, "Handler"]] = ContextVar("lvlm_prune_handlers")
_lock = Lock()


def install_tap(module: nn.Module) -> None:
    """Let recorders see query, key and value of an attention module.

    Args:
        module: a transformers attention module, with `config` and the attention interface.
    """
    with _lock:
        for name in (TAP_NAME, FLASH_TAP_NAME):
            if name not in ALL_ATTENTION_FUNCTIONS:
                ALL_ATTENTION_FUNCTIONS.register(name, _tapped_attention)
        config: Any = module.config
        if not hasattr(config, "_lvlm_prune_base"):
            flash = "flash" in (config._attn_implementation or "")
            tapped = copy.copy(config)
            tapped._lvlm_prune_base = config
            tapped._lvlm_prune_users = 0
            # The public setter would reach into sub-configs that the copy shares.
            tapped._attn_implementation_internal = FLASH_TAP_NAME if flash else TAP_NAME
            module.config = tapped
        module.config._lvlm_prune_users += 1  # type: ignore[operator, union-attr]


def remove_tap(module: nn.Module) -> None:
    """Undo one `install_tap`; the last one puts the original config back."""
    with _lock:
        config: Any = module.config
        config._lvlm_prune_users -= 1
        if config._lvlm_prune_users == 0:
            module.config = config._lvlm_prune_base


@dataclass(frozen=True)
class AttentionCall:
    """One call of a tapped module's attention function.

    Args:
        module: the attention module.
        query: `[B, H, T, d]`, after rotary embedding.
        key: `[B, Hk, S, d]`, those of the cache included.
        value: `[B, Hk, S, d]`.
        mask: whatever the implementation takes: None, 4-D bool or float, or 2-D.
        settings: its keyword arguments.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    settings: Mapping[str, Any]

    @property
    def scale(self) -> float:
        """Factor of the logits."""
        scale = self.settings.get("scaling")
        return self.query.shape[-1] ** -0.5 if scale is None else float(scale)

    def run(self) -> tuple[Tensor, Tensor | None]:
        """Run the module's own implementation: `[B, T, H, d]`, and weights or None."""
        # Flash attention reads its kernel's name off the module, and other threads use this one.
        plain: Any = copy.copy(self.module)
        config: Any = self.module.config
        plain.config = config._lvlm_prune_base
        # Eager attention is no registered function: each modeling file has its own.
        eager = sys.modules[type(self.module).__module__].eager_attention_forward
        base = ALL_ATTENTION_FUNCTIONS.get_interface(plain.config._attn_implementation, eager)
        return base(plain, self.query, self.key, self.value, self.mask, **self.settings)


Handler = Callable[[AttentionCall], tuple[Tensor, Tensor | None]]


def handling(handlers: Mapping[int, Handler]) -> Token[Mapping[int, Handler]]:
    """Let functions run the attention of tapped modules, until the token is reset.

    Args:
        handlers: one function for each module, by its `id`.
    """
    return _handlers.set(handlers)


@contextmanager
def recording(recorders: Mapping[nn.Module, Recorder]) -> Iterator[None]:
    """Call `recorder(query, key, value, scale)` for each tapped module that runs inside the block.

    Args:
        recorders: one function for each module; tensors are `[I, H, T, d]`, detached. Sequences
            that are packed into one call of a flash kernel are shown one by one. A recorder may
            return the keys that take part, `[I, T]` bool; the others are then masked, under SDPA.
    """
    token = _recorders.set({id(module): recorder for module, recorder in recorders.items()})
    try:
        yield
    finally:
        _recorders.reset(token)


def _tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Show query, key and value to the recorder, then run the module's own implementation."""
    recorder = _recorders.get({}).get(id(module))
    if recorder is not None:
        scale = kwargs.get("scaling")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        borders = kwargs.get("cu_seq_lens_q")
        lengths = [query.shape[2]] if borders is None else borders.diff().tolist()
        split = [tensor.split(lengths, dim=2) for tensor in (query, key, value)]
        packed = list(zip(*split, strict=True))
        with torch.no_grad():
            masks = [recorder(q.detach(), k.detach(), v.detach(), scale) for q, k, v in packed]
        if any(mask is not None for mask in masks):
            return _masked_attention(module, packed, masks, scale), None
    call = AttentionCall(module, query, key, value, attention_mask, kwargs)
    handler = _handlers.get({}).get(id(module))
    return call.run() if handler is None else handler(call)


def _masked_attention(
    module: nn.Module,
    packed: list[tuple[Tensor, ...]],
    masks: list[Tensor | None],
    scale: float,
) -> Tensor:
    """Attention of sequences to some of their keys, `[I, T, H, d]`."""
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    rows = [
        sdpa(
            module,
            *sequence,
            None if mask is None else mask[:, None, None],
            scaling=scale,
            is_causal=False,
        )[0]
        for sequence, mask in zip(packed, masks, strict=True)
    ]
    return torch.cat(rows, dim=1)
