"""`fastv`, `pyramiddrop`, `vscan`: goldens and a loop over heads for the last row's attention."""

from dataclasses import replace

import pytest
import torch
from goldens import golden_files, load
from layers.layer_makers import attending, best, choose, golden_prompt, prompt, slow_weights

from lvlm_prune.layers.contract import Projected
from lvlm_prune.layers.registry import LAYER_METHODS

# The layer whose attention judges: the one before the stage, or the stage's own.
JUDGES = {"fastv": "previous", "vscan": "previous", "pyramiddrop": "following"}


@pytest.mark.parametrize("path", golden_files("fastv"))
@pytest.mark.parametrize("name", ["fastv", "vscan"])
def test_golden_fastv(path, name):
    golden = load(path)
    last = torch.tensor([golden["seq_len"] - 1])
    parts = attending(golden["attn_last_row"][:, None], last, golden["seq_len"])
    signals = golden_prompt(golden, projected={"previous": parts})
    selection = choose(LAYER_METHODS[name], signals, [golden["T"]])
    assert (selection.kept - golden["image_start"]).tolist() == golden["kept"].tolist()
    assert (selection.scores - golden["scores"]).abs().max() < 1e-6
    stays = torch.cat([signals.text, selection.kept]).sort().values
    assert stays.tolist() == golden["keep_positions"].tolist()


@pytest.mark.parametrize("path", golden_files("pyramiddrop"))
def test_golden_pyramiddrop(path):
    golden = load(path)
    keys = golden["keys"]
    query = torch.zeros_like(keys)
    query[:, -1] = golden["q_last"]
    parts = Projected(query, keys, torch.zeros_like(keys), keys.shape[-1] ** -0.5)
    signals = golden_prompt(golden, projected={"following": parts})
    selection = choose(LAYER_METHODS["pyramiddrop"], signals, [golden["T"]])
    assert (selection.kept - golden["image_start"]).tolist() == golden["kept"].tolist()
    assert (selection.scores - golden["scores"]).abs().max() < 1e-6
    stays = torch.cat([signals.text, selection.kept]).sort().values
    assert stays.tolist() == golden["keep_positions"].tolist()


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("past", [0, 4])
def test_scores_equal_a_loop(name, past):
    signals = prompt(images=(6, 9), past=past, seed=past)
    parts = signals.projected[JUDGES[name]]
    row = slow_weights(parts, len(signals.hidden) - 1).mean(dim=0)[past:]
    selection = choose(LAYER_METHODS[name], signals, (2, 5))
    assert (selection.scores - row[signals.visual]).abs().max() < 1e-6
    expected = [
        column
        for columns, keep in zip(signals.images, (2, 5), strict=True)
        for column in best(row[columns], columns, keep)
    ]
    assert selection.kept.tolist() == expected


@pytest.mark.parametrize("name", JUDGES)
def test_only_the_requested_layer_is_read(name):
    signals = prompt()
    method = LAYER_METHODS[name]
    judge = JUDGES[name]
    assert getattr(method.request, judge)
    alone = replace(signals, projected={judge: signals.projected[judge]})
    assert torch.equal(choose(method, alone, (3, 3)).kept, choose(method, signals, (3, 3)).kept)


def test_published_schedules():
    tokens = {}
    for name in JUDGES:
        left, counts = 576, []
        stages = LAYER_METHODS[name].stages(32)
        for layer in range(32):
            left = round(576 * stages[layer]) if layer in stages else left
            counts.append(left)
        tokens[name] = sum(counts) / 32
    assert tokens == {"fastv": 306.0, "pyramiddrop": 270.0, "vscan": 384.0}
