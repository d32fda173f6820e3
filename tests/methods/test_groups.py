"""Groups that methods report are those that they merged: rows made anew from them are equal."""

from dataclasses import replace

import pytest
import torch
from methods.signal_makers import random_signals
from PIL import Image
from tiny_chatters import tiny_internvl, tiny_next, tiny_qwen
from tiny_probe import tiny_loaded

from lvlm_prune.around_sinks import Rows, moved_groups, rows_around_sinks
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.methods import METHODS
from lvlm_prune.methods.vflowopt import importance
from lvlm_prune.show_figure import whole

MERGING = ("pool", "tome", "vflowopt", "visionzip", "vscan")


def chosen(name: str, keep: int, grid: tuple[int, int] = (6, 8)):
    """A selection with the method's defaults, and the signals."""
    given = torch.rand(3, 2, grid[0] * grid[1]).softmax(dim=-1)
    signals = replace(random_signals(grid), sinks_given=given)
    return METHODS[name].select(signals, keep, **METHODS[name].options), signals


def merged_again(name: str, signals, image: int, members: list[int], place: int) -> torch.Tensor:
    """The row of a group in float64."""
    rows = (signals.features if name in ("pool", "vscan") else signals.hidden)[image].double()
    if name == "visionzip":
        others = [row for row in members if row != place]
        return rows[place] + (rows[others].mean(dim=0) if others else 0)
    if name == "vflowopt":
        weights = importance(signals.sinks_given)[image, members].double()
        return (weights.unsqueeze(1) * rows[members]).sum(dim=0) / weights.sum()
    return rows[members].mean(dim=0)


@pytest.mark.parametrize("name", MERGING)
@pytest.mark.parametrize("keep", [9, 24, 40])
def test_groups_give_the_merged_rows(name, keep):
    choice, signals = chosen(name, keep)
    rows = choice.features if choice.hidden is None else choice.hidden
    for image, groups in enumerate(choice.groups.tolist()):
        kept = choice.kept[image].tolist()
        assert set(groups) <= set(kept), "every token went into a kept one"
        for place in set(groups):
            members = [row for row, into in enumerate(groups) if into == place]
            assert place in members
            wanted = merged_again(name, signals, image, members, place)
            assert (rows[image, kept.index(place)] - wanted).abs().max() < 1e-5


def test_the_row_of_the_cls_token_has_no_members():
    choice, _ = chosen("visionzip", 24)
    for kept, groups in zip(choice.kept.tolist(), choice.groups.tolist(), strict=True):
        assert len(set(kept) - set(groups)) == 1


@pytest.mark.parametrize("name", ["cls", "divprune", "holov", "grid", "prumerge", "prumerge_plus"])
def test_methods_without_groups(name):
    assert chosen(name, 9)[0].groups is None


def test_groups_of_a_part_are_groups_of_the_whole():
    index = torch.tensor([2, 3, 5, 7])
    groups = torch.tensor([0, 0, -1, 3])
    assert moved_groups(groups, index, 8).tolist() == [-1, -1, 2, 2, -1, -1, -1, 7]
    assert moved_groups(None, index, 8) is None


def test_parts_keep_their_groups_together():
    kept, features = torch.tensor([1]), torch.zeros(1, 3)
    one, two = (Rows(kept, features, None, None, torch.tensor([1, 1])) for _ in range(2))
    parts = [one.among(torch.tensor([0, 1]), 5), two.among(torch.tensor([2, 4]), 5)]
    assert Rows.together(parts).groups.tolist() == [1, 1, 4, -1, 4]


def test_sinks_outside_the_choice_are_in_no_group():
    choice, signals = chosen("tome", 9)

    def select(subset, keep):
        found = METHODS["tome"].select(subset, keep, steps=24)
        taken = subset.features[:, : found.kept.shape[1]]
        each = zip(found.kept, taken, found.groups, strict=True)
        return [Rows(kept, features, None, None, groups) for kept, features, groups in each]

    sinks = torch.zeros(3, 48, dtype=torch.bool)
    sinks[:, [0, 7]] = True
    for rows in rows_around_sinks(signals, sinks, 9, "keep", select):
        assert rows.groups[sinks[0]].tolist() == [-1, -1]
        assert set(rows.groups[~sinks[0]].tolist()) == set(rows.kept.tolist()) - {0, 7}


@pytest.mark.parametrize("make", [tiny_loaded, tiny_next, tiny_qwen, tiny_internvl])
@pytest.mark.parametrize("config", [{}, {"sinks": "keep"}, {"per": "tile"}])
def test_placeholders_went_into_kept_ones(make, config):
    loaded = make()
    photo = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    inputs = loaded.inputs([photo], ["is there a cat"])
    stage = BoundaryStage(loaded.model, PruneConfig(method="tome", keep=0.25, **config))
    with torch.no_grad():
        (choice,) = stage.select(stage.encode(inputs), {0})
    kept, drawn = set(choice.rows.kept.tolist()), whole([choice, choice])
    assert set(choice.groups.tolist()) <= kept | {-1}
    assert (choice.groups >= 0).sum() > len(kept), "more than the kept tokens"
    total = choice.rows.total
    assert drawn.groups[:total].equal(choice.groups)
    went = drawn.groups[total:]
    assert went[went >= 0].equal(choice.groups[choice.groups >= 0] + total)
