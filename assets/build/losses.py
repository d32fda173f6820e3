"""Auxiliary losses of stage 2, which break the plateau of plain answer training.

In: embeddings, hidden states and the truth of the scenes. Out: scalar losses.
Grounding: two heads of LLM layer 0 let a class word look at the patches of its class, or at `<s>`
if there are none; two heads of layer 2 do the same for a colour and a class. Counting: two heads of
layer 1 look at the centre of each object. Alignment: projected
object patches resemble the class word. State: after LLM layer 1 a class word knows number, colour,
row and column of its objects. The auxiliary heads are thrown away after training.
"""

from __future__ import annotations

import torch
from classes import CLASSES, COLOR_NAMES
from families import VISUAL_TOKENS
from packing import IGNORE, NOUN_OF_TOKEN, Packed
from scenes import GRID, SIZE, Scene
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

BINS = 7
HEADS = 2
NOUN_TOKENS = torch.tensor([min(t for t, c in NOUN_OF_TOKEN.items() if c == i)
                            for i in range(len(CLASSES))])  # fmt: skip


def state_heads(width: int) -> nn.ModuleDict:
    """Heads on class words (number, colour, column, row) and on projected patches."""
    return nn.ModuleDict(
        {
            "number": nn.Linear(width, 6),
            "color": nn.Linear(width, len(COLOR_NAMES)),
            "column": nn.Linear(width, BINS),
            "row": nn.Linear(width, BINS),
            "patch_color": nn.Linear(width, len(COLOR_NAMES)),
            "patch_row": nn.Linear(width, GRID),
            "patch_column": nn.Linear(width, GRID),
        }
    )


def alignment_loss(features: Tensor, embedding: Tensor, scenes: list[Scene]) -> Tensor:
    """Cross entropy of cosine similarity (x10) between object patches and class words.

    Args:
        features: [B, 196, D] projector output.
        embedding: [V, D] token embeddings.
        scenes: the B scenes.
    """
    labels = torch.stack([torch.from_numpy(s.patch_labels).flatten() for s in scenes]).flatten()
    on_object = labels >= 0
    if not on_object.any():
        return features.sum() * 0
    patches = F.normalize(features.flatten(0, 1)[on_object].float(), dim=-1)
    words = F.normalize(embedding[NOUN_TOKENS].float(), dim=-1)
    return F.cross_entropy(10 * patches @ words.T, labels[on_object])


def patch_state_loss(heads: nn.ModuleDict, features: Tensor, scenes: list[Scene]) -> Tensor:
    """Colour, row and column of object patches, read from the projector output."""
    labels = torch.stack([torch.from_numpy(s.patch_labels).flatten() for s in scenes])
    colors = torch.stack([torch.from_numpy(s.patch_colors).flatten() for s in scenes]).flatten()
    on_object = (labels >= 0).flatten()
    if not on_object.any():
        return features.sum() * 0
    index = torch.arange(VISUAL_TOKENS).expand(len(scenes), -1).flatten()[on_object]
    chosen = features.flatten(0, 1)[on_object]
    loss = F.cross_entropy(heads["patch_row"](chosen).float(), index // GRID)
    loss = loss + F.cross_entropy(heads["patch_column"](chosen).float(), index % GRID)
    tint = colors[on_object].clamp(min=IGNORE)
    tint = tint.masked_fill(tint < 0, IGNORE)
    if (tint >= 0).any():
        color = heads["patch_color"](chosen).float()
        loss = loss + F.cross_entropy(color, tint, ignore_index=IGNORE)
    return loss


def _first_heads(projection: nn.Linear, hidden: Tensor, width: int) -> Tensor:
    """Output of a query or key projection for the first heads."""
    rows = slice(0, HEADS * width)
    bias = None if projection.bias is None else projection.bias[rows]
    return F.linear(hidden, projection.weight[rows], bias)


def _log_attention(
    llm: PreTrainedModel, index: int, hidden: Tensor, packed: Packed, at: Tensor
) -> Tensor:
    """Log attention of words over the prefix in the first heads of a layer, [n, HEADS, P].

    Args:
        llm: the language model.
        index: its layer.
        hidden: [B, P + T, D] input of that layer.
        packed: the batch.
        at: int [2, n], row and column of each word among the packed tokens.
    """
    layer, (row, column) = llm.layers[index], at
    prefix, width = packed.layout.prefix, layer.self_attn.head_dim
    hidden = layer.input_layernorm(hidden)
    q = _first_heads(layer.self_attn.q_proj, hidden[row, prefix + column], width)
    k = _first_heads(layer.self_attn.k_proj, hidden[:, :prefix], width)
    cos, sin = llm.rotary_emb(hidden, packed.positions)
    q = q.view(-1, 1, HEADS, width)
    k = k.view(-1, prefix, HEADS, width)
    turn = (cos[row, prefix + column, None], sin[row, prefix + column, None])
    q, _ = apply_rotary_pos_emb(q, q, *turn, unsqueeze_dim=2)
    k, _ = apply_rotary_pos_emb(k, k, cos[:, :prefix], sin[:, :prefix], unsqueeze_dim=2)
    logits = torch.einsum("nhd,nkhd->nhk", q[:, 0].float(), k[row].float()) / width**0.5
    return logits.log_softmax(-1)


def grounding_loss(
    llm: PreTrainedModel, hidden: tuple[Tensor, ...], packed: Packed, scenes: list[Scene]
) -> Tensor:
    """Class words look at patches of their class, coloured ones at patches of class and colour.

    Where there are none, they look at `<s>`. Class words do so in layer 0; class words after a
    colour word, which first have to read that word, in layer 2.

    Args:
        llm: the language model.
        hidden: inputs of layers 0, 1 and 2, each [B, P + T, D].
        packed: the batch.
        scenes: the B scenes.
    """
    labels = torch.stack([torch.from_numpy(s.patch_labels).flatten() for s in scenes])
    colors = torch.stack([torch.from_numpy(s.patch_colors).flatten() for s in scenes])
    loss = hidden[0].sum() * 0
    for index, named in ((0, packed.nouns), (2, packed.tints)):
        at = torch.nonzero(named >= 0).T
        if not at.numel():
            continue
        row, column = at
        wanted = torch.zeros(len(row), packed.layout.prefix, dtype=torch.bool)
        right = labels[row] == packed.nouns[row, column][:, None]
        if index == 2:
            right &= colors[row] == named[row, column][:, None]
        wanted[:, packed.layout.visual] = right
        wanted[:, 0] = ~wanted.any(1)
        attention = _log_attention(llm, index, hidden[index], packed, at)
        mass = attention.masked_fill(~wanted[:, None], -1e9).logsumexp(-1)
        loss = loss - mass.mean()
    return loss


def counting_loss(
    llm: PreTrainedModel, hidden: tuple[Tensor, ...], packed: Packed, scenes: list[Scene]
) -> Tensor:
    """Class words look equally at `<s>` and at the centre of each of their objects, in layer 1.

    An average of n equal values and one other is what an attention head can count with; an
    average over all patches of a class depends on the size of the objects.

    Args:
        llm: the language model.
        hidden: inputs of layers 0, 1 and 2, each [B, P + T, D].
        packed: the batch.
        scenes: the B scenes.
    """
    at = torch.nonzero(packed.nouns >= 0).T
    target = torch.zeros(at.shape[1], packed.layout.prefix)
    start = packed.layout.visual.start
    target[:, 0] = 1
    nouns = packed.nouns[at[0], at[1]].tolist()
    for i, (row, noun) in enumerate(zip(at[0].tolist(), nouns, strict=True)):
        anchors = [start + o.anchor for o in scenes[row].objects if o.label == noun]
        target[i, anchors] = 1
    target = target / target.sum(1, keepdim=True)
    attention = _log_attention(llm, 1, hidden[1], packed, at)
    return -(target[:, None] * attention).sum(-1).mean()


def state_targets(scenes: list[Scene], row: Tensor, nouns: Tensor) -> dict[str, Tensor]:
    """Number, colour, column and row of the named class per class word, -100 if unclear."""
    out: dict[str, list[int]] = {"number": [], "color": [], "column": [], "row": []}
    for r, noun in zip(row.tolist(), nouns.tolist(), strict=True):
        found = [o for o in scenes[r].objects if o.label == noun]
        out["number"].append(min(len(found), 5))
        tints = {o.color for o in found}
        color = tints.pop() if len(tints) == 1 else None
        out["color"].append(IGNORE if color is None else color)
        x, y = found[0].center if len(found) == 1 else (None, None)
        out["column"].append(IGNORE if x is None else int(x / SIZE * BINS))
        out["row"].append(IGNORE if y is None else int(y / SIZE * BINS))
    return {name: torch.tensor(values) for name, values in out.items()}


def state_loss(heads: nn.ModuleDict, hidden: Tensor, packed: Packed, scenes: list[Scene]) -> Tensor:
    """What each class word knows of its objects.

    Args:
        heads: `state_heads`.
        hidden: [B, P + T, D] states after LLM layer 1.
        packed: the batch.
        scenes: the B scenes.
    """
    row, column = torch.nonzero(packed.nouns >= 0, as_tuple=True)
    words = hidden[row, packed.layout.prefix + column]
    loss = words.sum() * 0
    for name, target in state_targets(scenes, row, packed.nouns[row, column]).items():
        if (target >= 0).any():
            logits = heads[name](words).float()
            loss = loss + F.cross_entropy(logits, target, ignore_index=IGNORE)
    return loss
