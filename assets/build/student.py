"""The model in training: one of the families with the auxiliary heads, and its answers.

In: a family. Out: `Student`, which runs packed questions, and its accuracy per kind of question on
scenes of the test split. It knows nothing of losses or optimisers.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from attention import use_plain_products
from dense import dense_heads, to_tensor
from families import Encoded, Family
from losses import state_heads
from packing import IGNORE, Packed, layout, pack
from questions import training_questions
from scenes import Painter, Scene, random_scene
from torch import Tensor, nn
from torch.nn import functional as F


class Student(nn.Module):
    """A model of a family and the auxiliary heads that training needs."""

    def __init__(self, kind: Family) -> None:
        """Builds an untrained model."""
        super().__init__()
        self.kind = kind
        self.model = kind.build_model()
        use_plain_products(self.model)
        self.dense = dense_heads(kind)
        self.state = state_heads(self.model.config.text_config.hidden_size)

    @property
    def words(self) -> Tensor:
        """Token embeddings [V, D], tied with the output layer."""
        return self.model.model.language_model.embed_tokens.weight

    def encode(self, scenes: list[Scene]) -> Encoded:
        """The vision encoder on the images of scenes."""
        return self.kind.encode(self.model, to_tensor(scenes))

    def embeddings(self, features: Tensor, packed: Packed) -> Tensor:
        """Input embeddings [B, P + T, D] of prefix and branches."""
        size, around = len(features), packed.layout
        head = F.embedding(torch.tensor(around.before), self.words).expand(size, -1, -1)
        end = torch.tensor(around.after, dtype=torch.long)
        end = F.embedding(end, self.words).expand(size, -1, -1)
        tail = F.embedding(packed.ids, self.words)
        parts = [part.to(features.dtype) for part in (head, features, end, tail)]
        return torch.cat(parts, 1)

    def states(self, embeds: Tensor, packed: Packed) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Final hidden states, and the inputs of all layers, each [B, P + T, D]."""
        out = self.model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            output_hidden_states=True,
            use_cache=False,
        )
        return out.last_hidden_state, out.hidden_states


@torch.no_grad()
def evaluate(student: Student, painter: Painter, count: int = 60) -> dict[str, float]:
    """Share of exactly right answers per kind of question, on scenes of the test split."""
    rng = np.random.default_rng(98)
    hits: dict[str, list[float]] = defaultdict(list)
    for _ in range(count // 20):
        scenes = [random_scene(painter, rng) for _ in range(20)]
        questions = [training_questions(s, rng) for s in scenes]
        packed = pack(questions, around=layout(student.kind))
        features = student.encode(scenes).features
        final, _ = student.states(student.embeddings(features, packed), packed)
        said = F.linear(final[:, packed.layout.prefix :], student.words).argmax(-1)
        right = (said == packed.labels) | (packed.labels == IGNORE)
        for row, (asked, begins) in enumerate(zip(packed.questions, packed.first, strict=True)):
            ends = [*begins[1:], packed.ids.shape[1]]
            for question, a, b in zip(asked, begins, ends, strict=True):
                hits[question.kind].append(float(right[row, a:b].all()))
    return {kind: round(float(np.mean(v)), 3) for kind, v in sorted(hits.items())}
