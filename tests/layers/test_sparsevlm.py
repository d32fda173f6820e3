"""`sparsevlm`: goldens of raters, ranking and recycling, loops, the split of the budget, memory."""

from dataclasses import replace

import pytest
import torch
from goldens import golden_files, load
from layers.layer_makers import (
    attending,
    best,
    choose,
    golden_prompt,
    prompt,
    slow_attention,
    text_behind,
)

from lvlm_prune.layers.density_peaks import cluster, cluster_means
from lvlm_prune.layers.sparsevlm import METHOD, raters, split_budget


@pytest.mark.parametrize("path", golden_files("sparsevlm"))
def test_golden(path):
    golden = load(path)
    start, length, text = golden["image_start"], golden["seq_len"], golden["attn_text_rows"]
    columns = torch.arange(length - text.shape[1], length)
    signals = golden_prompt(
        golden,
        hidden=golden["hidden_out"],
        entered=golden["hidden_in"],
        projected={"previous": attending(text, columns, length)},
    )
    # The official counts kept tokens alone; its clusters come on top.
    keep = len(golden["kept"]) + len(golden["cluster_centers"])
    selection = choose(METHOD, signals, [keep])
    assert selection.memory[0].nonzero()[:, 0].tolist() == golden["rater_idx"].tolist()
    assert (selection.scores - golden["vis_scores"]).abs().max() < 1e-6
    centres = golden["merge_candidates"][golden["cluster_centers"]]
    plain = selection.kept[~torch.isin(selection.kept, selection.merged)]
    assert (plain - start).tolist() == golden["kept"].tolist()
    order = centres.argsort()
    assert (selection.merged - start).tolist() == centres[order].tolist()
    assert (selection.rows - golden["merged_tokens"][order]).abs().max() < 1e-4
    assert len(signals.text) + len(selection.kept) == golden["out_len"]


@pytest.mark.parametrize("path", golden_files("sparsevlm"))
def test_golden_clusters(path):
    golden = load(path)
    rows = golden["hidden_out"][golden["image_start"] + golden["merge_candidates"]]
    centres, assigned = cluster(rows, len(golden["cluster_centers"]))
    assert centres.tolist() == golden["cluster_centers"].tolist()
    assert assigned.tolist() == golden["cluster_assign"].tolist()


def slow_clusters(rows: torch.Tensor, count: int) -> tuple[list[int], list[int]]:
    """DPC-kNN by its definition, in float64."""
    rows, m = rows.double(), len(rows)
    apart = [[float((a - b).norm()) / rows.shape[1] ** 0.5 for b in rows] for a in rows]
    density = [-sum(d * d for d in sorted(line)[:count]) / count for line in apart]
    density = torch.tensor(density).exp().tolist()
    most = max(map(max, apart))
    score = []
    for i in range(m):
        denser = [apart[i][j] for j in range(m) if density[j] > density[i]]
        score.append(density[i] * min(denser, default=most))
    centres = sorted(range(m), key=lambda i: (-score[i], i))[:count]
    nearest = [min(range(count), key=lambda c: (apart[centres[c]][i], c)) for i in range(m)]
    for number, centre in enumerate(centres):
        nearest[centre] = number
    return centres, nearest


@pytest.mark.parametrize(("m", "count"), [(1, 1), (5, 5), (12, 3), (30, 4)])
def test_clusters_equal_a_loop(m, count):
    rows = torch.randn(m, 6, generator=torch.Generator().manual_seed(m), dtype=torch.float64)
    centres, assigned = cluster(rows.float(), count)
    assert (centres.tolist(), assigned.tolist()) == slow_clusters(rows.float(), count)
    means = cluster_means(rows.float(), assigned, count)
    for number in range(count):
        members = rows[assigned == number]
        assert (means[number] - members.mean(dim=0)).abs().max() < 1e-5


def test_equal_rows_are_clustered_the_same_way_twice():
    rows = torch.ones(9, 4)
    first, second = cluster(rows, 3), cluster(rows, 3)
    assert first[0].tolist() == second[0].tolist() == [0, 1, 2]
    assert cluster_means(rows, first[1], 3).tolist() == rows[:3].tolist()


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ((300, 200, 110), (309, 204, 113)),
        ((303, 110, 36), (312, 117, 39)),
        ((238, 48, 26), (249, 55, 27)),
        ((66, 30, 17), (82, 32, 18)),
    ],
)
def test_official_budgets(official, ours):
    present = 576
    for kept, total in zip(official, ours, strict=True):
        candidates = int(0.3 * (present - kept)) + 1
        assert split_budget(present, total) == (kept, candidates // 10 + 1)
        assert total == kept + candidates // 10 + 1
        present = total


def test_every_budget_is_split_exactly():
    for present in (1, 2, 5, 40, 300):
        for keep in range(present + 1):
            kept, clusters = split_budget(present, keep)
            assert kept + clusters == keep
            assert clusters <= kept
        assert split_budget(present, present) == (present, 0)


def test_raters_equal_a_loop():
    generator = torch.Generator().manual_seed(4)
    visual, text = torch.randn(6, 8, generator=generator), torch.randn(5, 8, generator=generator)
    share = [0.0] * 5
    for token in visual.double():
        weights = [float((token @ word.double()).exp()) for word in text]
        share = [s + w / sum(weights) / 6 for s, w in zip(share, weights, strict=True)]
    assert raters(visual, text).tolist() == [s > sum(share) / 5 for s in share]
    assert raters(visual, text[:1]).tolist() == [True]


@pytest.mark.parametrize("past", [0, 3])
def test_without_recycling_a_loop_gives_the_same(past):
    signals = prompt(images=(8, 6), past=past)
    selection = choose(METHOD, signals, (3, 2), recycle=False)
    kept = []
    for image, (columns, found) in enumerate(
        zip(signals.images, selection.scores.split([8, 6]), strict=True)
    ):
        behind = text_behind(signals, image)
        chosen = raters(signals.entered[columns], signals.entered[behind])
        rows = [row for row, rates in zip(behind, chosen.tolist(), strict=True) if rates]
        score = slow_attention(signals, signals.previous, image, rows)
        assert (found - score).abs().max() < 1e-6
        kept += best(score, columns, (3, 2)[image])
    assert selection.kept.tolist() == kept
    assert selection.merged is None


def test_raters_of_an_image_can_see_it():
    """Text between the images is most about both of them, and sees only the first."""
    signals = prompt(images=(6, 6), text=(2, 3, 3))
    entered = torch.full_like(signals.entered, 0.1)
    entered[8:11] = 5.0
    entered[signals.visual] = 1.0
    signals = replace(signals, entered=entered)
    scores = choose(METHOD, signals, (2, 2), recycle=False).scores
    assert (scores > 0).all()


def test_raters_outlast_an_image_that_is_gone():
    signals = prompt(images=(6, 6), text=(2, 3, 3))
    memory = choose(METHOD, signals, (0, 6), recycle=False).memory
    gone = replace(signals, images=[signals.images[0][:0], signals.images[1]], memory=memory)
    found = choose(METHOD, gone, (0, 2), recycle=False)
    whole = choose(METHOD, replace(signals, memory=memory), (0, 2), recycle=False)
    assert found.kept.tolist() == whole.kept.tolist()


def test_each_image_recycles_its_own_tokens():
    signals = prompt(images=(60, 40), text=(2, 1, 4))
    selection = choose(METHOD, signals, (20, 10))
    ranked = selection.scores.split([60, 40])
    for columns, scores, keep in zip(signals.images, ranked, (20, 10), strict=True):
        kept, clusters = split_budget(len(columns), keep)
        mine = torch.isin(selection.merged, columns)
        assert int(mine.sum()) == clusters
        plain = torch.isin(selection.kept, columns) & ~torch.isin(selection.kept, selection.merged)
        assert selection.kept[plain].tolist() == best(scores, columns, kept)
        order = columns[scores.argsort(descending=True, stable=True)]
        candidates = order[kept : kept + int(0.3 * (len(columns) - kept)) + 1]
        centres, assigned = slow_clusters(signals.hidden[candidates], clusters)
        for column, row in zip(selection.merged[mine], selection.rows[mine], strict=True):
            number = centres.index(int((candidates == column).nonzero()))
            group = candidates[torch.tensor(assigned) == number]
            assert (row - signals.hidden[group].mean(dim=0)).abs().max() < 1e-5


def test_raters_are_chosen_once():
    signals = prompt(images=(8,), text=(2, 5))
    first = choose(METHOD, signals, (6,))
    later = replace(signals, entered=None, memory=first.memory)
    assert torch.equal(choose(METHOD, later, (6,)).kept, first.kept)
