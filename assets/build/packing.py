"""Packs many questions about one image behind one image prefix.

In: scenes and their questions. Out: `Packed` tensors for one forward of the language model: each
branch sees the prefix and itself, and its positions restart after the prefix, so that the result
equals asking every question alone. The branches hold exactly the token ids that the processor
makes from the chat template. Position ids of the visual tokens are jittered in part of the
images, because pruned prompts may come with compacted or gapped positions. It knows nothing of
losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from classes import CLASSES, COLOR_NAMES, plural
from model import EOS, PAD, VISUAL_TOKENS, build_tokenizer
from questions import Question
from torch import Tensor

_TOKENIZER = build_tokenizer()
START: tuple[int, ...] = tuple(_TOKENIZER("USER:").input_ids)
PREFIX = len(START) + VISUAL_TOKENS
IGNORE = -100
NOUN_OF_TOKEN: dict[int, int] = {
    _TOKENIZER.convert_tokens_to_ids(word): i
    for i, label in enumerate(CLASSES)
    for word in (label, plural(label))
}
COLOR_OF_TOKEN: dict[int, int] = {
    _TOKENIZER.convert_tokens_to_ids(name): i for i, name in enumerate(COLOR_NAMES)
}


@cache
def token_ids(text: str) -> tuple[int, ...]:
    """Ids of a text without special tokens."""
    return tuple(_TOKENIZER(text, add_special_tokens=False).input_ids)


_FILL = {"ids": PAD, "branch": -1, "at": 0, "labels": IGNORE, "nouns": -1, "tints": -1}


@dataclass(frozen=True)
class Packed:
    """One batch; T is the length of the longest packed row after the prefix.

    Attributes:
        ids: int [B, T] token ids of all branches, padded.
        positions: int [B, 199 + T] position ids of prefix and branches.
        branch: int [B, T] number of the question a token belongs to, -1 in padding.
        mask: float [B, 1, 199 + T, 199 + T], added to scores: 0 where allowed, else -1e9.
        labels: int [B, T] next-token targets, -100 outside the answers.
        nouns: int [B, T] class index where a question names a class, else -1.
        tints: int [B, T] colour index where a question names a class after a colour, else -1.
        first: int list per row, index of each branch's first answer position in `labels`.
        questions: the questions in packed order.
    """

    ids: Tensor
    positions: Tensor
    branch: Tensor
    mask: Tensor
    labels: Tensor
    nouns: Tensor
    tints: Tensor
    first: list[list[int]]
    questions: list[list[Question]]


def prefix_positions(rng: np.random.Generator | None) -> tuple[np.ndarray, int]:
    """Position ids of the prefix and the position at which every branch starts.

    Half of the images keep the standard ids; the others get compacted ids (as if 4-196 tokens
    were left), or a gap of up to 200 before the text. No token is dropped.
    """
    n = len(START)
    visual = np.arange(VISUAL_TOKENS)
    start = VISUAL_TOKENS
    draw = 0.0 if rng is None else rng.random()
    if rng is not None and 0.5 <= draw < 0.85:
        start = int(rng.integers(4, VISUAL_TOKENS + 1))
        visual = visual * start // VISUAL_TOKENS
    elif rng is not None and draw >= 0.85:
        visual = np.sort(rng.integers(0, VISUAL_TOKENS, VISUAL_TOKENS))
        start = VISUAL_TOKENS + int(rng.integers(0, 200))
    return np.concatenate([np.arange(n), n + visual]), n + start


def pack(questions: list[list[Question]], rng: np.random.Generator | None = None) -> Packed:
    """Packs the questions of B images.

    Args:
        questions: per image its questions.
        rng: source of the position jitter; None keeps standard positions.
    """
    rows: list[dict[str, list[int]]] = []
    first: list[list[int]] = []
    before = []
    for row_questions in questions:
        row: dict[str, list[int]] = {name: [] for name in _FILL}
        starts = []
        prefix, begin = prefix_positions(rng)
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
    positions = torch.cat([torch.from_numpy(np.stack(before)), table["at"]], 1)
    branch = table["branch"]
    mask = attention_mask(branch)
    return Packed(
        table["ids"],
        positions,
        branch,
        mask,
        table["labels"],
        table["nouns"],
        table["tints"],
        first,
        questions,
    )


def attention_mask(branch: Tensor, prefix: int = PREFIX) -> Tensor:
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
