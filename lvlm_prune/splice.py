"""Take dropped visual tokens out of a prompt, and remember where everything was.

In: the prompt's tensors `[B, L]` and, for each image or video, which of its N tokens stay and the
rows they carry. Out: tensors `[B, L']` in which the kept tokens stand in order, with their original
rotary positions (`[B, L]`, or `[4, B, L]` with M-RoPE), padded on the side the prompt was padded
on, and the `Plan`. Rows of a batch may lose different numbers of tokens. Knows nothing about models
or methods.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lvlm_prune.errors import PlaceholderMismatchError

IGNORED_LABEL = -100  # cross entropy skips it


@dataclass(frozen=True)
class ImageRows:
    """The tokens of one image that stay.

    Args:
        kept: `[K]` int64, ascending, in 0..N-1.
        features: `[K, D]`, what the LLM gets for them.
        total: N.
        deepstack: for each DeepStack layer of the LLM, what it adds to them, `[K, D]`.
        marks: named numbers of the tokens that the LLM's side may ask for, `[K]` float32.
    """

    kept: Tensor
    features: Tensor
    total: int
    deepstack: list[Tensor] = field(default_factory=list)
    marks: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Where every column of a shortened prompt came from.

    Args:
        index: `[B, L']` int64, original column of each new column, -1 for padding.
        length: L, columns of the original prompt.
        kept: for each image, the kept tokens, ascending; the images first, then the videos, each
            in the order of the prompts.
        totals: for each image, N.
        prompts: for each image, the row of the batch it stands in.
    """

    index: Tensor
    length: int
    kept: list[Tensor]
    totals: list[int]
    prompts: list[int]

    @property
    def dropped(self) -> int:
        """Visual tokens that were dropped, all images together."""
        return sum(self.totals) - sum(len(kept) for kept in self.kept)

    def gather(self, values: Tensor, fill: Any = 0) -> Tensor:
        """Bring `[B, L]` values of the original prompt into the order of the new one, `[B, L']`."""
        return gather_columns(values, self.index, fill)

    def mask(self) -> Tensor:
        """Original columns that are in the new prompt, `[B, L]` bool."""
        marked = torch.zeros(
            self.index.shape[0], self.length + 1, dtype=torch.bool, device=self.index.device
        )
        # Padding points at -1, which is the extra last column.
        return marked.scatter(1, self.index % (self.length + 1), True)[:, :-1]

    def by_prompt(self, features: list[Tensor], first: int = 0) -> list[Tensor]:
        """Join the features of the images of each prompt, `[K, D]` each, in prompt order.

        Args:
            features: of images that follow each other in the plan.
            first: place of the first of them in the plan.

        transformers before 5.23 repeats the entries of a list one by one for beams, which keeps
        their order only if a prompt has a single entry.
        """
        joined: dict[int, list[Tensor]] = {}
        prompts = self.prompts[first : first + len(features)]
        for prompt, rows in zip(prompts, features, strict=True):
            joined.setdefault(prompt, []).append(rows)
        return [torch.cat(rows) for rows in joined.values()]


def gather_columns(values: Tensor, index: Tensor, fill: Any = 0) -> Tensor:
    """Gather columns of `[.., B, L]` by `[B, L']`; where the index is -1, `fill`."""
    places = index.clamp(min=0).expand(*values.shape[:-2], *index.shape)
    return values.gather(-1, places).masked_fill(index < 0, fill)


def image_columns(input_ids: Tensor, image_token_id: int, totals: list[int]) -> list[Tensor]:
    """Find the placeholder columns of each image.

    Args:
        input_ids: `[B, L]`.
        image_token_id: id of the placeholder token.
        totals: N of each image, in the order of the prompts.

    Returns:
        For each image, `[N, 2]` int64: row and column of each placeholder.

    Raises:
        PlaceholderMismatchError: the counts differ, or an image would span two prompts.
    """
    places = (input_ids == image_token_id).nonzero()
    if places.shape[0] != sum(totals):
        raise PlaceholderMismatchError(
            f"the prompt has {places.shape[0]} placeholder tokens (id {image_token_id}) but the "
            f"{len(totals)} image(s) have {sum(totals)} visual tokens; make both with the model's "
            "own processor"
        )
    columns = list(places.split(totals)) if totals else []
    for number, place in enumerate(columns):
        if place[0, 0] != place[-1, 0]:
            raise PlaceholderMismatchError(
                f"image {number} spans prompts {int(place[0, 0])} and {int(place[-1, 0])}; "
                "each prompt needs all placeholder tokens of its own images"
            )
    return columns


def make_plan(
    attention_mask: Tensor, columns: list[Tensor], kept: list[Tensor], totals: list[int]
) -> Plan:
    """Decide the columns of the shortened prompt.

    Args:
        attention_mask: `[B, L]`, 0 for padding.
        columns: for each image, `[N, 2]` row and column of its placeholders.
        kept: for each image, `[K]` kept tokens.
        totals: for each image, N.

    Returns:
        The plan. If nothing is dropped it is the prompt itself, padding included.
    """
    stays = attention_mask != 0
    prompts = [int(place[0, 0]) for place in columns]
    length = attention_mask.shape[1]
    if sum(totals) == sum(len(rows) for rows in kept):
        index = torch.arange(length, device=stays.device).expand(stays.shape[0], -1)
        return Plan(index, length, kept, totals, prompts)
    drop = torch.zeros_like(stays)
    for place, rows in zip(columns, kept, strict=True):
        drop[place[:, 0], place[:, 1]] = True
        place = place[rows.to(place.device)]
        drop[place[:, 0], place[:, 1]] = False
        # A placeholder that the caller masked still takes its row of features.
        stays[place[:, 0], place[:, 1]] = True
    left = not bool((attention_mask[:, -1] == 0).any())
    rows_of = [row.nonzero()[:, 0] for row in stays & ~drop]
    index = pad_sequence(
        rows_of, batch_first=True, padding_value=-1, padding_side="left" if left else "right"
    )
    return Plan(index, length, kept, totals, prompts)


def splice(
    inputs: dict[str, Tensor],
    images: Sequence[tuple[int, list[ImageRows]]],
    placeholders: Collection[int] = (),
) -> tuple[dict[str, Tensor], Plan]:
    """Shorten the tensors of a prompt.

    Args:
        inputs: `input_ids` `[B, L]` and any of `attention_mask`, `position_ids`, `labels`,
            `token_type_ids`, `mm_token_type_ids`, all `[B, L]`; positions may be `[4, B, L]`.
        images: for each modality the id of its placeholder token, and the kept tokens of its
            images in the order of the prompts.
        placeholders: other ids that padding must not have.

    Returns:
        The same names, shortened, plus `attention_mask` and `position_ids` where tokens were
        dropped; and the plan. Without a drop the inputs are returned as they are.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    rows = [image for _, one in images for image in one]
    totals = [image.total for image in rows]
    columns = [
        place
        for token_id, one in images
        for place in image_columns(ids, token_id, [image.total for image in one])
    ]
    plan = make_plan(mask, columns, [image.kept for image in rows], totals)
    if not plan.dropped:
        return dict(inputs), plan
    # Padding is masked, but it must not look like a placeholder.
    taken = {*placeholders, *(token_id for token_id, _ in images)}
    free = next(token for token in range(len(taken) + 1) if token not in taken)
    fills = {"input_ids": free, "labels": IGNORED_LABEL}
    positions = inputs.get("position_ids")
    if positions is None:
        positions = positions_of(mask)
    elif positions.dim() == 2:
        positions = positions.expand_as(ids)
    columns_of = {**inputs, "attention_mask": mask, "position_ids": positions}
    return {
        name: plan.gather(value, fills.get(name, 0)) for name, value in columns_of.items()
    }, plan


def positions_of(mask: Tensor) -> Tensor:
    """Rotary positions that transformers gives a padded prompt, `[B, L]`."""
    positions = mask.long().cumsum(-1) - 1
    return positions.masked_fill(mask == 0, 0)
