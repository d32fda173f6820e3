"""Splice against a slow loop: every column, fill value and padding side."""

import pytest
import torch
from tiny_models import IMAGE_TOKEN, TOKENS, prompts

from lvlm_prune.splice import ImageRows, splice


def loop_row(columns: list[int], values: list[int], width: int, fill: int, left: bool) -> list[int]:
    """One row by hand: the kept columns, padded on one side."""
    row = [values[column] for column in columns]
    pad = [fill] * (width - len(row))
    return pad + row if left else row + pad


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("layouts", [("tit",), ("ttt", "titit"), ("t" * 15, "tit", "i" + "t" * 9)])
def test_every_tensor_equals_a_loop(layouts, padding):
    inputs = prompts(*layouts, padding=padding)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    count = sum(layout.count("i") for layout in layouts)
    generator = torch.Generator().manual_seed(0)
    kept = [
        torch.randperm(TOKENS, generator=generator)[: 3 + image].sort().values
        for image in range(count)
    ]
    columns_of = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids + 1,
        "token_type_ids": ids * 2,
        "mm_token_type_ids": (ids == IMAGE_TOKEN).long(),
        "position_ids": torch.arange(ids.shape[1]).expand_as(ids),
    }
    rows = [ImageRows(index, torch.randn(len(index), 4), TOKENS) for index in kept]
    short, plan = splice(columns_of, [(IMAGE_TOKEN, rows)])
    image, expected = 0, []
    for prompt in range(ids.shape[0]):
        seen, columns = 0, []
        for column in range(ids.shape[1]):
            if ids[prompt, column] == IMAGE_TOKEN:
                if seen in kept[image].tolist():
                    columns.append(column)
                seen += 1
                if seen == TOKENS:
                    image, seen = image + 1, 0
            elif mask[prompt, column]:
                columns.append(column)
        expected.append(columns)
    width = max(len(columns) for columns in expected)
    left = padding == "left" or not (mask == 0).any()
    fills = {"labels": -100}
    for name, values in columns_of.items():
        fill = fills.get(name, 0)
        for row, columns, source in zip(short[name], expected, values.tolist(), strict=True):
            assert row.tolist() == loop_row(columns, source, width, fill, left)
    for row, columns in zip(plan.index, expected, strict=True):
        assert [column for column in row.tolist() if column >= 0] == columns
    assert plan.dropped == count * TOKENS - sum(map(len, kept))
    assert plan.prompts == [
        prompt for prompt, layout in enumerate(layouts) for _ in range(layout.count("i"))
    ]


def test_nothing_dropped_returns_the_prompt_itself():
    inputs = prompts("tit", "ttt")
    pixels = inputs.pop("pixel_values")
    rows = [ImageRows(torch.arange(TOKENS), pixels[0, 0, :TOKENS], TOKENS)]
    short, plan = splice(inputs, [(IMAGE_TOKEN, rows)])
    assert set(short) == set(inputs)
    assert all(short[name] is inputs[name] for name in inputs)
    assert plan.dropped == 0


def test_features_are_joined_by_prompt():
    inputs = prompts("titit", "ttt", "tit")
    inputs.pop("pixel_values")
    rows = [ImageRows(torch.arange(2), torch.full((2, 3), float(i)), TOKENS) for i in range(3)]
    _, plan = splice(inputs, [(IMAGE_TOKEN, rows)])
    joined = plan.by_prompt([row.features for row in rows])
    assert [part[:, 0].tolist() for part in joined] == [[0, 0, 1, 1], [2, 2]]
