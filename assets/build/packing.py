"""Packs many questions about one image behind one image prefix.

In: scenes and their questions, and a family. Out: `Packed` tensors for one forward of its language
model: each branch sees the prefix and itself, and its positions restart after the prefix, so that
the result equals asking every question alone. The branches hold exactly the token ids that the
processor makes from the chat template. Position ids of the visual tokens are jittered in part of
the images, because pruned prompts may come with compacted or gapped positions (positions.py). It
knows nothing of losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from classes import CLASSES, COLOR_NAMES, plural
from families import VISUAL_TOKENS, Family, family
from positions import prefix_positions
from questions import Question
from tokenizer import EOS, PAD, build_tokenizer
from torch import Tensor

_TOKENIZER = build_tokenizer()
IGNORE = -100
NOUN_OF_TOKEN: dict[int, int] = {
    _TOKENIZER.convert_tokens_to_ids(word): i
    for i, label in enumerate(CLASSES)
    for word in (label, plural(label))
}
COLOR_OF_TOKEN: dict[int, int] = {
    _TOKENIZER.convert_tokens_to_ids(name): i for i, name in enumerate(COLOR_NAMES)
}


@dataclass(frozen=True)
class Layout:
    """The prompt of a family around its visual tokens.

    Attributes:
        before: token ids in front of the visual tokens, `<s>` first.
        after: token ids right behind them.
        axes: rows of the position ids.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    axes: int

    @property
    def visual(self) -> slice:
        """Where the visual tokens are."""
        return slice(len(self.before), len(self.before) + VISUAL_TOKENS)

    @property
    def prefix(self) -> int:
        """Length P of the prefix that all branches share."""
        return len(self.before) + VISUAL_TOKENS + len(self.after)


@cache
def layout(kind: Family) -> Layout:
    """The layout of a family, from its own tokenizer."""
    tokenizer = kind.build_tokenizer()
    after = tokenizer(kind.after, add_special_tokens=False).input_ids if kind.after else []
    return Layout(tuple(tokenizer(kind.before).input_ids), tuple(after), kind.axes)


@cache
def token_ids(text: str) -> tuple[int, ...]:
    """Ids of a text without special tokens."""
    return tuple(_TOKENIZER(text, add_special_tokens=False).input_ids)


_FILL = {"ids": PAD, "branch": -1, "at": 0, "labels": IGNORE, "nouns": -1, "tints": -1}


@dataclass(frozen=True)
class Packed:
    """One batch; P is the length of the prefix, T of the longest packed row after it.

    Attributes:
        layout: the prompt around the visual tokens.
        ids: int [B, T] token ids of all branches, padded.
        positions: int [B, P + T] position ids of prefix and branches; [3, B, P + T] for M-RoPE.
        branch: int [B, T] number of the question a token belongs to, -1 in padding.
        mask: float [B, 1, P + T, P + T], added to scores: 0 where allowed, else -1e9.
        labels: int [B, T] next-token targets, -100 outside the answers.
        nouns: int [B, T] class index where a question names a class, else -1.
        tints: int [B, T] colour index where a question names a class after a colour, else -1.
        first: int list per row, index of each branch's first answer position in `labels`.
        questions: the questions in packed order.
    """

    layout: Layout
    ids: Tensor
    positions: Tensor
    branch: Tensor
    mask: Tensor
    labels: Tensor
    nouns: Tensor
    tints: Tensor
    first: list[list[int]]
    questions: list[list[Question]]


def pack(
    questions: list[list[Question]],
    rng: np.random.Generator | None = None,
    around: Layout | None = None,
) -> Packed:
    """Packs the questions of B images.

    Args:
        questions: per image its questions.
        rng: source of the position jitter; None keeps standard positions.
        around: the prompt around the visual tokens; None is LLaVA's.
    """
    around = around or layout(family("llava"))
    rows: list[dict[str, list[int]]] = []
    first: list[list[int]] = []
    before = []
    for row_questions in questions:
        row: dict[str, list[int]] = {name: [] for name in _FILL}
        starts = []
        prefix, begin = prefix_positions(len(around.before), len(around.after), around.axes, rng)
        for b, question in enumerate(row_questions):
            asked = token_ids(f"{question.text} ASSISTANT:")
            answer = (*token_ids(question.answer), EOS)
            starts.append(len(row["ids"]) + len(asked) - 1)
            row["ids"] += [*asked, *answer[:-1]]
            size = len(asked) + len(answer) - 1
            row["branch"] += [b] * size
            row["at"] += range(begin, begin + size)
            row["labels"] += [IGNORE] * (len(asked) - 1) + list(answer)
            rest = [-1] * (len(answer) - 1)
            row["nouns"] += [NOUN_OF_TOKEN.get(i, -1) for i in asked] + rest
            row["tints"] += [-1] + [
                COLOR_OF_TOKEN.get(before, -1) if i in NOUN_OF_TOKEN else -1
                for before, i in zip(asked, asked[1:], strict=False)
            ]
            row["tints"] += rest
        rows.append(row)
        first.append(starts)
        before.append(prefix)
    length = max(len(row["ids"]) for row in rows)
    table = {
        name: torch.tensor([row[name] + [value] * (length - len(row[name])) for row in rows])
        for name, value in _FILL.items()
    }
    later = table["at"].expand(around.axes, -1, -1)
    positions = torch.cat([torch.from_numpy(np.stack(before, 1)), later], -1)
    branch = table["branch"]
    mask = attention_mask(branch, around.prefix)
    return Packed(
        around,
        table["ids"],
        positions if around.axes > 1 else positions[0],
        branch,
        mask,
        table["labels"],
        table["nouns"],
        table["tints"],
        first,
        questions,
    )


def attention_mask(branch: Tensor, prefix: int) -> Tensor:
    """Causal within prefix and branch; branches see the prefix but not each other.

    Args:
        branch: int [B, T] branch number of each packed token.
        prefix: length P of the prefix.

    Returns:
        float [B, 1, P + T, P + T] to add to attention scores.
    """
    size, length = branch.shape
    group = torch.cat([torch.full((size, prefix), -2), branch], 1)
    same = group[:, :, None] == group[:, None, :]
    visible = same | (group == -2)[:, None, :]
    causal = torch.ones(prefix + length, prefix + length, dtype=torch.bool).tril()
    return torch.where(visible & causal, 0.0, -1e9)[:, None]
