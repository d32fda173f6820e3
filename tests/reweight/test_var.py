"""`var`: goldens of the official code, a loop reference, and its gates."""

from dataclasses import replace

import pytest
import torch
from goldens import golden_files, load
from reweight.row_makers import prompt_rows

from lvlm_prune.reweight.var import METHOD, redistributed


def keys_of(golden):
    """Visual keys and sinks of a golden, `[1, S]` bool each."""
    visual = torch.zeros(1, golden["seq_len"], dtype=torch.bool)
    visual[:, golden["image_start"] : golden["image_start"] + golden["image_len"]] = True
    sinks = torch.zeros_like(visual)
    sinks[0, golden["sink_positions"]] = True
    return visual, sinks


@pytest.mark.parametrize("path", golden_files("var"))
@pytest.mark.parametrize(
    ("array", "gate", "options"),
    [
        ("attn_official_p06_rho05", "gate_rho05", METHOD.presets["official_code"]),
        ("attn_paper_p06_rho05", "gate_rho05", {}),
        ("attn_paper_p06_rho08", "gate_paper_rho08", METHOD.presets["general"]),
    ],
)
def test_golden(path, array, gate, options):
    golden = load(path)
    weights = golden["attn_text_rows"][None]
    options = METHOD.complete({**options, "summ": golden["summ"]})
    edited = redistributed(weights, *keys_of(golden), **options)
    assert (edited[0] - golden[array]).abs().max() < 1e-6
    assert torch.equal((edited != weights)[0].any(dim=-1), golden[gate])


def loop(weights, visual, sinks, move, rho, summ):
    """One row, in plain Python."""
    keys = range(len(weights))
    text = {j for j in keys if sinks[j] and not visual[j]}
    bad = {j for j in keys if sinks[j] and visual[j]}
    good = {j for j in keys if visual[j] and not sinks[j]}
    mass, share = sum(weights[j] for j in good | bad), sum(weights[j] for j in good)
    if not bad or mass < summ or share < rho * mass or share == 0:
        return list(weights)
    budget = move * sum(weights[j] for j in bad | text)
    return [
        (1 - move) * w if j in bad | text else w + budget * w / share if j in good else w
        for j, w in enumerate(weights)
    ]


@pytest.mark.parametrize("options", [{}, {"move": 1.0, "rho": 0.0}, {"summ": 0.9}, {"rho": 0.75}])
def test_equals_a_loop(options):
    options = METHOD.complete(options)
    rows = prompt_rows(0, text=9)
    edited = METHOD.edit(rows, **options).weights[0]
    for head in range(4):
        for row in range(9):
            plain = rows.weights.double()[0, head, row].tolist()
            expected = loop(plain, rows.visual[0].tolist(), rows.sinks[0].tolist(), **options)
            assert (edited[head, row].double() - torch.tensor(expected)).abs().max() < 1e-6


def test_without_visual_sinks_nothing_moves():
    rows = prompt_rows(1)
    for sinks in (torch.zeros_like(rows.sinks), rows.sinks & ~rows.visual):
        edited = METHOD.edit(replace(rows, sinks=sinks), **METHOD.complete({}))
        assert torch.equal(edited.weights, rows.weights)


def test_a_prompt_whose_visual_tokens_are_all_sinks_is_plain():
    rows = prompt_rows(2)
    options = METHOD.complete({"rho": 0.0, "summ": 0.0})
    edited = METHOD.edit(replace(rows, sinks=rows.sinks | rows.visual), **options)
    assert torch.equal(edited.weights, rows.weights)


def test_last_layer_and_first_two_stay():
    assert list(METHOD.layers(METHOD.options, 32)) == list(range(2, 31))
    assert list(METHOD.layers(METHOD.options, 3)) == [1]


def test_sinks_are_required():
    with pytest.raises(ValueError, match="needs LLM sinks, got None"):
        METHOD.edit(replace(prompt_rows(3), sinks=None), **METHOD.options)


def test_shares_above_one_are_errors():
    with pytest.raises(ValueError, match="move=1.5 is not allowed; pass 0 to 1"):
        METHOD.complete({"move": 1.5})
