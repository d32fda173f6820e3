"""What an encoder computes, observed from outside: attention, and which patches make a token.

The model's own `get_image_features` runs with hooks on its layers. Attention is the softmax of the
layer's queries and keys, sequence by sequence; patches are numbered through all sequences of a
call, without CLS tokens. Which patches make a visual token is found by changing one encoder row at
a time and looking where the features change. Nothing here knows the adapters.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """Queries and keys of a layer, a sequence each, `[H, T, d]`; `first` is 1 with a CLS token."""

    queries: list[Tensor]
    keys: list[Tensor]
    first: int

    def attention(self) -> list[Tensor]:
        """Attention of each sequence, `[H, T, T]`."""
        return [
            (query.double() @ key.double().mT * query.shape[-1] ** -0.5).softmax(-1)
            for query, key in zip(self.queries, self.keys, strict=True)
        ]

    def cls(self) -> Tensor:
        """CLS rows, `[H, P]`."""
        return torch.cat([weights[:, 0, 1:] for weights in self.attention()], -1)

    def received(self) -> Tensor:
        """Mean over heads and queries, `[P]`."""
        return torch.cat([weights.mean((0, 1))[self.first :] for weights in self.attention()])

    def joint(self) -> Tensor:
        """CLS row of one head over the full width, `[P]`."""
        rows = []
        for query, key in zip(self.queries, self.keys, strict=True):
            wide, keys = query[:, 0].double().flatten(), key.double().transpose(0, 1).flatten(1)
            rows.append((keys @ wide / len(wide) ** 0.5).softmax(-1)[1:])
        return torch.cat(rows)

    def given(self, sinks: list[Tensor]) -> Tensor:
        """Mean rows of the sinks of each sequence, a mask `[T]` each, `[H, P]`; of all if none."""
        rows = []
        for weights, marked in zip(self.attention(), sinks, strict=True):
            asked = [t for t in range(len(marked)) if marked[t] or not marked.any()]
            rows.append(weights[:, asked].mean(1)[:, self.first :])
        return torch.cat(rows, -1)


@dataclass(frozen=True)
class EncoderPass:
    """One call of an encoder.

    Args:
        layers: queries and keys.
        rows: encoder rows that are projected, `[P, d]`.
        cls_rows: the CLS row of each sequence, `[S, d]`, or None.
        features: of each image or tile, `[N, D]`, newline tokens included.
        output: what the model returned.
    """

    layers: list[Layer]
    rows: Tensor
    cls_rows: Tensor | None
    features: list[Tensor]
    output: object


def encoder_of(model) -> nn.Module:
    """The vision encoder."""
    base = model.base_model
    return base.visual if hasattr(base, "visual") else base.vision_tower


def projector_of(model) -> nn.Module:
    """What turns encoder rows into features."""
    base = model.base_model
    return base.visual.merger if hasattr(base, "visual") else base.multi_modal_projector


def attentions_of(model) -> list[nn.Module]:
    """The encoder's attention modules, first layer first."""
    parts = ("qkv", "q_proj")
    return [m for m in encoder_of(model).modules() if any(hasattr(m, part) for part in parts)]


@torch.no_grad()
def features_of(model, inputs: dict, modality: str = "image"):
    """The encoder output that the model's own generate makes."""
    function = getattr(model.base_model, f"get_{modality}_features")
    names = [name for name in signature(function).parameters if name in inputs]
    return function(**{name: inputs[name] for name in names}, return_dict=True)


def encoder_pass(model, inputs: dict, modality: str = "image") -> EncoderPass:
    """Run the encoder and keep what went through it."""
    seen: dict[object, Tensor] = {}
    has_cls = "clip" in encoder_of(model).config.model_type or model.config.model_type == "internvl"
    with ExitStack() as undo:

        def watch(module, hook, before=False):
            register = module.register_forward_pre_hook if before else module.register_forward_hook
            undo.callback(register(hook, with_kwargs=True).remove)

        for place, module in enumerate(attentions_of(model)):
            if hasattr(module, "qkv"):
                watch(module, lambda m, a, kw, p=place: seen.update({(p, "args"): kw}), True)
                watch(module.qkv, lambda m, a, kw, out, p=place: seen.update({(p, "qkv"): out}))
                continue
            for name in ("q_proj", "k_proj"):
                child = getattr(module, name)
                watch(child, lambda m, a, kw, out, p=place, n=name: seen.update({(p, n): out}))
        watch(projector_of(model), lambda m, a, kw: seen.update(rows=a[0]), True)
        watch(encoder_of(model), lambda m, a, kw, out: seen.update(tower=out))
        output = features_of(model, inputs, modality)
    layers = [
        _layer(
            module,
            {name: seen.get((place, name)) for name in ("qkv", "args", "q_proj", "k_proj")},
            has_cls,
        )
        for place, module in enumerate(attentions_of(model))
    ]
    rows, cls_rows = _rows(model, seen, has_cls)
    return EncoderPass(layers, rows, cls_rows, list(output.pooler_output), output)


def _layer(module: nn.Module, seen: dict, has_cls: bool) -> Layer:
    """Queries and keys of an attention module, as they meet each other."""
    if seen["qkv"] is None:
        heads = module.num_heads
        query, key = (
            [rows.unflatten(-1, (heads, -1)).transpose(0, 1) for rows in seen[name]]
            for name in ("q_proj", "k_proj")
        )
        return Layer(query, key, int(has_cls))
    cos, sin = seen["args"]["position_embeddings"]
    query, key, _ = seen["qkv"].view(len(cos), 3, module.num_heads, -1).transpose(0, 1)
    lengths = seen["args"]["cu_seqlens"].diff().tolist()
    turned = []
    for rows in (query, key):
        a, b = rows.chunk(2, -1)
        rows = rows * cos[:, None] + torch.cat([-b, a], -1) * sin[:, None]
        turned.append([one.transpose(0, 1) for one in rows.split(lengths)])
    return Layer(*turned, first=0)


def _rows(model, seen: dict, has_cls: bool) -> tuple[Tensor, Tensor | None]:
    """The encoder rows that are projected, and CLS rows beside them."""
    if model.config.model_type == "internvl":
        hidden = seen["tower"].last_hidden_state
        return hidden[:, 1:].flatten(0, 1), hidden[:, 0]
    rows = seen["rows"]
    if not has_cls:
        return rows.flatten(0, -2), None
    return rows.flatten(0, -2), seen["tower"].hidden_states[model.config.vision_feature_layer][:, 0]


def token_weights(model, inputs: dict, modality: str = "image") -> Tensor:
    """Share of each patch in each visual token, `[tokens, P]`; newline tokens have none.

    Patches that are projected one by one may be mixed afterwards, so their shares are read off
    projected rows that are replaced by unit vectors. Of patches that are projected together, each
    has the same share.
    """
    if model.config.model_type.startswith("llava"):
        return _mixed(model, inputs, modality)
    patches = len(encoder_pass(model, inputs, modality).rows)
    plain = _flat(features_of(model, inputs, modality))
    changed = []
    for patch in range(patches):
        with ExitStack() as undo:
            undo.callback(_changing(model, patch).remove)
            changed.append((_flat(features_of(model, inputs, modality)) != plain).any(-1))
    weights = torch.stack(changed, 1).double()
    return weights / weights.sum(1, keepdim=True)


def _mixed(model, inputs: dict, modality: str) -> Tensor:
    """Shares of single patches, as many at a time as features have channels."""
    shape, found = None, []

    def replaced(module, args, output, start):
        nonlocal shape
        shape = output.shape
        units = torch.zeros(shape[:-1].numel(), shape[-1])
        width = min(shape[-1], len(units) - start) if start is not None else 0
        for channel in range(width):
            units[start + channel, channel] = 1
        return units.view(shape)

    def packed(start):
        hook = projector_of(model).register_forward_hook(
            lambda module, args, output: replaced(module, args, output, start)
        )
        with ExitStack() as undo:
            undo.callback(hook.remove)
            return _flat(features_of(model, inputs, modality))

    empty = packed(None)
    patches = shape[:-1].numel()
    for start in range(0, patches, shape[-1]):
        found.append(packed(start) - empty)
    return torch.cat(found, 1)[:, :patches].double()


def _flat(output) -> Tensor:
    """Features of all tokens of a call, `[tokens, D]`."""
    return torch.cat([rows.flatten(0, -2) for rows in output.pooler_output])


def _changing(model, patch: int):
    """A hook that changes the encoder row of one patch before it is projected."""

    def rows_changed(module, args):
        rows = args[0].clone()
        rows[patch] *= -1.5
        return (rows, *args[1:])

    def output_changed(module, args, output):
        hidden = output.last_hidden_state.clone()
        tile, place = divmod(patch, hidden.shape[1] - 1)
        hidden[tile, 1 + place] *= -1.5
        output.last_hidden_state = hidden
        return output

    if model.config.model_type == "internvl":
        return encoder_of(model).register_forward_hook(output_changed)
    return projector_of(model).register_forward_pre_hook(rows_changed)
