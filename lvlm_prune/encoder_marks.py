"""Numbers of visual tokens that stages inside the LLM take from the vision encoder.

In: what the encoder gave for the images of a call, and the names of the marks that are wanted. Out:
for each image the marks of its tokens, and later of the columns of the shortened prompt, `[B, L']`:
`local` and `summary` (PAINT's two sets, from the CLS rows of the first and the last but one layer,
or received attention where there is no CLS), `vit_sink` (ViT sinks by norm), `size` (how many
tokens were merged into each; the method's own). With `size` comes `position`, the rotary position
of every column, where it is a plain count.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lvlm_prune.adapters import ImageGroup
from lvlm_prune.methods.contract import EncoderShape, attention_request
from lvlm_prune.reweight.paint import local_and_summary
from lvlm_prune.signals import SignalRequest
from lvlm_prune.sinks import vit_sinks
from lvlm_prune.splice import ImageRows, Plan, image_columns

MARKS = ("local", "summary", "vit_sink", "size")
OF_ATTENTION = ("local", "summary")


def marks_request(shape: EncoderShape, names: Sequence[str]) -> SignalRequest:
    """The signals behind some marks."""
    if set(names) & set(OF_ATTENTION):
        return attention_request(shape, sorted({0, max(0, shape.depth - 2)}))
    return SignalRequest()


def group_marks(group: ImageGroup, names: Sequence[str]) -> list[dict[str, Tensor]]:
    """The marks of each image of a group.

    Args:
        group: images of one size, with the signals of `marks_request` and no others.
        names: of the marks.

    Returns:
        For each image and name, `[N]` float32 at its placeholders, 0 where there is no candidate.
    """
    signals = group.signals
    found: list[dict[str, Tensor]] = []
    for number in range(len(group.images)):
        marks: dict[str, Tensor] = {}
        if set(names) & set(OF_ATTENTION):
            rows = signals.attention[number]
            marks["local"], marks["summary"] = local_and_summary(rows[0], rows[-1])
        if "vit_sink" in names:
            marks["vit_sink"] = vit_sinks(signals.norms[[number]])[0]
        found.append({name: _at_placeholders(group, mark) for name, mark in marks.items()})
    return found


def _at_placeholders(group: ImageGroup, mark: Tensor) -> Tensor:
    """Candidates' marks at the placeholders of the image, `[N]` float32."""
    empty = torch.zeros(group.total, device=mark.device)
    return empty.scatter(0, group.placeholders, mark.float())


def column_marks(
    names: Sequence[str], ids: Tensor, images: Sequence[tuple[int, list[ImageRows]]], plan: Plan
) -> dict[str, Tensor]:
    """Bring the kept tokens' marks to the columns of the shortened prompt.

    Args:
        names: of the marks.
        ids: the original prompt, `[B, L]`.
        images: for each modality the id of its placeholder and its images, in order.
        plan: how the prompt was shortened.

    Returns:
        For each name, `[B, L']` float32; 0 for text and padding.
    """
    found = {name: torch.zeros(ids.shape, device=ids.device) for name in names}
    for token_id, rows in images:
        places = image_columns(ids, token_id, [image.total for image in rows])
        for place, image in zip(places, rows, strict=True):
            row, column = place[image.kept.to(place.device)].unbind(1)
            for name in set(names) & set(image.marks):
                found[name][row, column] = image.marks[name].to(ids.device)
    return {name: plan.gather(values) for name, values in found.items()}
