"""Budgets of images and tiles, newline tokens, and how an image's budget is shared."""

import pytest
import torch
from tiny_families import FAMILIES, IMAGE

from lvlm_prune import attach, prune_inputs
from lvlm_prune.adapters import adapter_for
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.budget import split_budget
from lvlm_prune.config import PruneConfig
from lvlm_prune.methods import METHODS
from lvlm_prune.show_figure import whole
from lvlm_prune.signals import SignalRequest
from lvlm_prune.stage import part_budgets

TILED = ("llava_next", "llava_onevision", "internvl")


def groups_of(name: str, *layouts: str):
    """The encoded groups of some prompts."""
    family = FAMILIES[name]
    adapter = adapter_for(family.model())
    with torch.no_grad():
        return adapter.encode(family.prompts(*layouts), SignalRequest()).groups


@pytest.mark.parametrize("name", TILED)
def test_tiles_cut_the_candidates_into_rectangles(name):
    for group in groups_of(name, "tititit"):
        for parts in (group.parts, group.tiles or group.parts):
            rows = torch.cat([part.rows for part in parts])
            assert rows.sort().values.tolist() == list(range(group.candidates))
            assert all(len(part.rows) == part.grid[0] * part.grid[1] for part in parts)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_only_families_with_newline_tokens_have_less_to_choose_from_than_placeholders(name):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit")
    stage = BoundaryStage(model, PruneConfig(method="identity", keep=1.0))
    choice = whole(stage.select(stage.encode(inputs)))
    groups = groups_of(name, "tit")
    assert choice.candidates == sum(group.candidates * len(group.images) for group in groups)
    assert (choice.candidates < choice.total) == adapter_for(model).newlines


def test_next_has_a_base_tile_and_an_unpadded_picture():
    group = next(g for g in groups_of("llava_next", "tit") if g.candidates > 16)
    base, picture = group.parts
    assert base.grid == (4, 4)
    # 40 x 56 in 56 x 56: 8 rows of 8 patches lose 1 row above and 1 below.
    assert picture.grid == (6, 8)
    assert [tile.grid for tile in group.tiles] == [(4, 4), (3, 4), (3, 4), (3, 4), (3, 4)]
    assert group.total == 16 + 6 * 9
    newlines = sorted(set(range(group.total)) - set(group.placeholders.tolist()))
    assert newlines == [16 + 9 * row + 8 for row in range(6)]
    embedding = FAMILIES["llava_next"].model().model.image_newline
    assert all(torch.equal(group.all_features[0, place], embedding) for place in newlines)


@pytest.mark.parametrize("method", ["cls", "grid"])
@torch.no_grad()
def test_newline_tokens_go_with_the_first_dropped_token(method):
    family = FAMILIES["llava_next"]
    model, inputs = family.model(), family.prompts("tit")
    total = int((inputs["input_ids"] == IMAGE).sum())
    with attach(model, method=method, keep=63) as handle:
        model(**inputs)
        (kept,) = handle.report.kept
    newlines = {16 + 9 * row + 8 for row in range(6)}
    assert len(kept) == 63
    assert not newlines & set(kept.tolist())
    for keep, expected in ((64, 64), (0.999, total)):
        _, plan = prune_inputs(model, inputs, method=method, keep=keep)
        assert len(plan.kept[0]) == expected


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("method", ["cls", "divprune", "visionzip", "grid"])
@torch.no_grad()
def test_budget_per_tile(name, method):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit", "tit")
    with attach(model, method=method, keep=3, per="tile") as handle:
        model(**inputs)
        kept = handle.report.kept
    for group in groups_of(name, "tit", "tit"):
        for image in group.images:
            chosen = set(kept[image].tolist())
            for tile in group.tiles or group.parts:
                places = set(group.placeholders[tile.rows].tolist())
                assert len(places & chosen) == 3
            assert len(chosen) == 3 * len(group.tiles or group.parts)


@torch.no_grad()
def test_budget_per_tile_counts_frames_of_a_video():
    family = FAMILIES["qwen2_5_vl"]
    inputs = family.prompts("tvt")
    with attach(family.model(), method="cls", keep=2, per="tile") as handle:
        family.model()(**inputs)
        (kept,) = handle.report.kept
    assert (kept // 6).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_tile_without_enough_tokens_keeps_them_all():
    group = next(g for g in groups_of("llava_next", "tit") if g.candidates > 16)
    budgets = part_budgets(group, METHODS["cls"], PruneConfig(keep=14, per="tile"))
    assert [keep for _, keep in budgets] == [14, 12, 12, 12, 12]


@pytest.mark.parametrize("name", TILED)
@torch.no_grad()
def test_ranking_methods_share_a_budget_by_scores(name):
    """The kept tokens of an image are the best of all its tiles together."""
    family = FAMILIES[name]
    inputs = family.prompts("ti" if name == "internvl" else "tit", "tit")
    with attach(family.model(), method="cls", keep=5) as handle:
        family.model()(**inputs)
        report = handle.report
    scores, kept = report.scores[1], report.kept[1]
    best = scores.argsort(descending=True, stable=True)[:5].sort().values
    assert kept.tolist() == best.tolist()


def test_layout_methods_share_a_budget_by_size():
    group = next(g for g in groups_of("llava_next", "tit") if g.candidates > 16)
    budgets = part_budgets(group, METHODS["grid"], PruneConfig(keep=9))
    assert [keep for _, keep in budgets] == split_budget(9, [16, 48]) == [2, 7]


@pytest.mark.parametrize(
    ("keep", "sizes", "expected"),
    [
        (10, [5, 5], [5, 5]),
        (3, [4, 4], [2, 1]),
        (1, [10, 10, 11], [0, 0, 1]),
        (640, [576] * 5, [128] * 5),
        (7, [1, 1, 12], [1, 0, 6]),
    ],
)
def test_split_budget(keep, sizes, expected):
    shares = split_budget(keep, sizes)
    assert sum(shares) == keep
    assert all(share <= size for share, size in zip(shares, sizes, strict=True))
    assert shares == expected
