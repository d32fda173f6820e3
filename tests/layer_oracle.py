"""The oracle of stages inside the LLM: the stock model with dropped columns hidden from a layer on.

Pre-hooks on the decoder layers of a plain model put a mask of their own, built from nothing but the
caller's 2-D mask and the dropped columns, in the place of the model's. It knows nothing about how
tokens are dropped, and serves whole passes as well as the stock `generate` with its full cache.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from family_oracle import full_positions
from tiny_families import IMAGE, SPECIAL, VIDEO
from torch import Tensor

Dropped = dict[int, Tensor]


def visual_columns(inputs: dict) -> Tensor:
    """Real placeholders, `[B, L]`."""
    ids = inputs["input_ids"]
    return ((ids == IMAGE) | (ids == VIDEO)) & (inputs["attention_mask"] != 0)


def dropped_columns(visual: Tensor, kept: dict[int, list[Tensor]]) -> Dropped:
    """For each stage's layer the columns that are hidden from there on, `[B, L]`.

    Args:
        visual: `[B, L]`.
        kept: of a report.
    """
    found = {}
    for layer, prompts in kept.items():
        drop = visual.clone()
        for row, columns in enumerate(prompts):
            assert bool(visual[row, columns].all())
            drop[row, columns] = False
        found[layer] = drop
    return found


def visible(
    mask: Tensor, drop: Tensor | None, past: int, rows: int, unseen: Tensor | None = None
) -> Tensor:
    """Which keys each row sees, `[B, rows, past + rows]`; every row sees itself.

    Args:
        mask: `[B, S]`.
        drop: `[B, C]`, columns that no row sees.
        past: cached columns.
        rows: new ones.
        unseen: `[B, C]`, columns that only rows among themselves see.
    """
    total = past + rows
    seen = mask[:, :total] != 0
    if drop is not None:
        times = len(mask) // len(drop)
        known = drop.repeat_interleave(times, 0)[:, :total]
        seen[:, : known.shape[1]] &= ~known
    places = torch.arange(total)
    causal = places <= (torch.arange(rows) + past)[:, None]
    itself = places == (torch.arange(rows) + past)[:, None]
    seen = seen[:, None] & causal
    if unseen is not None:
        keys = torch.zeros_like(seen[:, 0])
        keys[:, : unseen.shape[1]] = unseen[:, :total]
        seen &= ~keys[:, None] | keys[:, past:, None]
    return seen | itself


@contextmanager
def hiding(
    model, dropped: Dropped, blind: tuple[int, ...] = (), visual: Tensor | None = None, merged=None
) -> Iterator[None]:
    """Hide columns of every pass of a stock model, each from its layer on.

    Args:
        dropped: for each stage.
        blind: layers at which text does not see `visual` columns, `[B, C]`.
        merged: for a layer, states `[n, D]` and where they are written before it, `[n, 2]`.
    """
    decoder = model.get_decoder()
    names = list(inspect.signature(type(model.base_model).forward).parameters)[1:]
    given = {}

    def before_base(module, args, kwargs):
        arguments = dict(zip(names, args, strict=False)) | kwargs
        given["mask"] = arguments.get("attention_mask")

    def before_layer(number):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs.pop("hidden_states")
            cache = kwargs.get("past_key_values")
            past = 0 if cache is None else cache.get_seq_length(number)
            mask = given["mask"]
            if mask is None:
                mask = torch.ones(len(hidden), past + hidden.shape[1])
            stages = [layer for layer in dropped if layer <= number]
            drop = dropped[max(stages)] if stages else None
            unseen = visual if number in blind else None
            seen = visible(mask, drop, past, hidden.shape[1], unseen)[:, None]
            if model.config.get_text_config()._attn_implementation == "eager":
                least = torch.finfo(hidden.dtype).min
                seen = torch.zeros(seen.shape, dtype=hidden.dtype).masked_fill(~seen, least)
            if number in (merged or {}) and not past:
                states, places = merged[number]
                hidden = hidden.clone()
                hidden[places[:, 0], places[:, 1]] = states
            return (hidden,), {**kwargs, "attention_mask": seen}

        return hook

    handles = [model.base_model.register_forward_pre_hook(before_base, with_kwargs=True)]
    handles += [
        layer.register_forward_pre_hook(before_layer(number), with_kwargs=True)
        for number, layer in enumerate(decoder.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def continued(model, inputs: dict, tokens: Tensor) -> dict:
    """A call for the prompts and the tokens `[B, n]` that follow them, with its positions."""
    call = dict(inputs)
    if "position_ids" not in call:
        call["position_ids"] = full_positions(model, inputs)
    call["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
    call["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(tokens)], 1)
    following = call["position_ids"][..., -1:] + 1 + torch.arange(tokens.shape[1])
    call["position_ids"] = torch.cat([call["position_ids"], following], -1)
    if "mm_token_type_ids" in call:
        types = call["mm_token_type_ids"]
        call["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(tokens).to(types)], 1)
    return call


@torch.no_grad()
def hidden_logits(model, inputs: dict, tokens: Tensor, dropped: Dropped, **rest) -> Tensor:
    """Logits for the place of each new token, from one whole pass without a cache.

    Args:
        tokens: `[B, n]` that follow the prompts.
        **rest: of `hiding`.

    Returns:
        `[B, n, V]`; causality makes them those of a prefill and n - 1 decode steps.
    """
    with hiding(model, dropped, **rest):
        logits = model(**continued(model, inputs, tokens), use_cache=False).logits
    return logits[:, inputs["input_ids"].shape[1] - 1 : -1]


def greedy_of(logits: Tensor) -> Tensor:
    """The tokens that a greedy generation takes."""
    logits = logits.clone()
    logits[..., SPECIAL] = -torch.inf
    return logits.argmax(-1)
