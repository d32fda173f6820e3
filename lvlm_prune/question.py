"""The question that an image is asked about, as embeddings of its text tokens.

In: a call's `input_ids` `[B, L]` and its encoded images. Out: the same images with, for each, the
LLM's input embeddings of the text tokens behind it, `[T, D]`, or CLIP's embeddings of patches and
question. Special tokens that the config names are left out; a chat template's words are not told
apart from the question's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lvlm_prune.adapters import Adapter, Encoded, ImageGroup
from lvlm_prune.signals import SignalRequest, Signals
from lvlm_prune.splice import image_columns


class ClipEmbedder(Protocol):
    """What embeds patches and questions in one space, such as `ClipText`."""

    def embed_patches(self, hidden: Tensor) -> Tensor:
        """Embed encoder rows, `[I, N, d]` to `[I, N, e]`."""

    def embed_questions(self, ids: Sequence[Tensor]) -> list[Tensor]:
        """Embed questions given by the LLM's token ids, `[T]` each, to `[M, e]` each."""


def with_question(
    encoded: Encoded,
    adapter: Adapter,
    request: SignalRequest,
    arguments: Mapping[str, Any],
    modality: str,
    clip: ClipEmbedder | None,
) -> Encoded:
    """Add what a query-aware method reads.

    Args:
        encoded: the images of a call.
        adapter: the model's adapter.
        request: whether embeddings of the LLM, of CLIP, or both are wanted.
        arguments: the call, with the `input_ids` of new columns.
        modality: `image` or `video`.
        clip: the CLIP text tower, if one was passed.
    """
    ids = arguments["input_ids"]
    places = image_columns(ids, adapter.token_id(modality), encoded.totals)
    questions = [
        question_ids(ids[place[0, 0]], arguments["attention_mask"][place[0, 0]], place[:, 1], marks)
        for place in places
        for marks in [special_ids(adapter.model.config)]
    ]
    embed = adapter.model.get_input_embeddings()

    def asked(group: ImageGroup) -> Signals:
        mine, signals = [questions[image] for image in group.images], group.signals
        if request.text:
            with torch.no_grad():
                signals = replace(signals, text=[embed(question) for question in mine])
        if request.clip:
            assert clip is not None
            with torch.no_grad():
                patches = clip.embed_patches(signals.hidden)
                pieces = clip.embed_questions(mine)
            signals = replace(signals, clip_image=patches, clip_text=pieces)
        return signals

    return encoded.with_signals(asked)


def question_ids(row: Tensor, mask: Tensor, columns: Tensor, special: Tensor) -> Tensor:
    """The text tokens behind an image, or those before it if there are none.

    Args:
        row: token ids of a prompt, `[L]`.
        mask: its attention mask, `[L]`.
        columns: columns of the image's placeholders, `[N]`.
        special: ids that are no text.

    Returns:
        `[T]` ids, T >= 1.

    Raises:
        ValueError: the prompt has no text.
    """
    text = (mask != 0) & ~torch.isin(row, special.to(row.device))
    column = torch.arange(len(row), device=row.device)
    behind = row[text & (column > columns[-1])]
    found = behind if len(behind) else row[text]
    if not len(found):
        raise ValueError(
            "a query-aware method needs a question, but the prompt of an image has no text; pass "
            "one, or use a method that does not read it, such as 'divprune'"
        )
    return found


def special_ids(config: Any) -> Tensor:
    """Ids that a config names as special: placeholders, begin, end, padding."""
    found: set[int] = set()
    for one in (config, config.get_text_config()):
        for name, value in one.to_dict().items():
            if name.endswith(("_token_id", "_token_index")) and value is not None:
                found.update(value if isinstance(value, list) else [value])
    return torch.tensor(sorted(found))
