"""`tome`: goldens of one step, a loop reference of all steps, equal patches."""

import pytest
import torch
from goldens import golden_files, load
from methods.signal_makers import (
    WITH_CLS,
    WITHOUT_CLS,
    check_every_budget,
    equal_signals,
    random_signals,
)

from lvlm_prune.methods.tome import METHOD, matched_pairs, merge_pairs, merged_owners
from lvlm_prune.signals import Signals


@pytest.mark.parametrize("path", golden_files("tome"))
def test_golden_step_but_for_order(path):
    golden = load(path)
    keys = golden["metric"][None].clone()
    if golden["class_token"]:
        # Official code never merges the class token (row 0); here its key is turned away.
        keys[:, 0] = -keys[:, 1::2].mean(dim=1)
    source, target = matched_pairs(keys, golden["r"])
    rows, size = merge_pairs(golden["x"][None], golden["size"][None], source, target)
    assert rows.shape[1] == len(golden["merged"])
    owner = torch.arange(keys.shape[1])
    owner[source[0]] = target[0]
    place = torch.searchsorted(owner.unique(), owner)
    assert (rows[0, place] - golden["merged"][golden["assign"]]).abs().max() < 1e-5
    assert torch.equal(size[0, place], golden["new_size"][golden["assign"]])


def loop_groups(keys: torch.Tensor, keep: int, steps: int) -> dict[int, list[int]]:
    """Members of each remaining token by the definition, in float64."""
    n = len(keys)
    groups = {row: [row] for row in range(n)}
    mean = {row: keys[row].double() for row in range(n)}
    while len(groups) > keep:
        places = sorted(groups)
        first, second = places[::2], places[1::2]
        pairs = []
        for a in first:
            cosine = {b: float(torch.cosine_similarity(mean[a], mean[b], dim=0)) for b in second}
            nearest = max(second, key=lambda b: cosine[b])
            pairs.append((cosine[nearest], a, nearest))
        pairs.sort(key=lambda pair: -pair[0])
        count = min(-(-(n - keep) // steps), len(places) // 2, len(places) - keep)
        for _, a, b in pairs[:count]:
            groups[b] += groups.pop(a)
        mean = {row: keys[members].double().mean(dim=0) for row, members in groups.items()}
    return groups


@pytest.mark.parametrize("keep", [1, 2, 9, 20, 34])
@pytest.mark.parametrize("steps", [1, 3, 24])
def test_rows_equal_a_loop_for_every_image(keep, steps):
    signals = random_signals((5, 7))
    choice = METHOD.select(signals, keep, steps=steps)
    for image in range(3):
        groups = loop_groups(signals.keys[image].mean(dim=0), keep, steps)
        assert choice.kept[image].tolist() == sorted(groups)
        for number, row in enumerate(sorted(groups)):
            expected = signals.hidden[image, groups[row]].double().mean(dim=0)
            assert (choice.hidden[image, number] - expected).abs().max() < 1e-5
            assert bool(choice.replaced[image, number]) == (len(groups[row]) > 1)


def test_every_token_belongs_to_a_kept_one():
    owner = merged_owners(random_signals((9, 11)).keys.mean(dim=1), 10, 24)
    for image in owner.tolist():
        assert len(set(image)) == 10
        assert all(image[place] == place for place in image)


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (1, 3), (4, 6), (5, 7)])
@pytest.mark.parametrize("steps", [1, 24])
def test_every_budget(grid, steps):
    check_every_budget(METHOD, random_signals(grid), steps=steps)


def test_keeping_all_changes_nothing():
    signals = random_signals((3, 4))
    choice = METHOD.select(signals, 12, steps=24)
    assert torch.equal(choice.hidden, signals.hidden)
    assert not choice.replaced.any()


def test_equal_patches():
    check_every_budget(METHOD, equal_signals((4, 6)))


def test_the_most_similar_pair_is_merged_first():
    keys = torch.eye(6).view(1, 1, 6, 6).clone()
    keys[0, 0, 3] = keys[0, 0, 2]
    hidden = torch.randn(1, 6, 4)
    signals = Signals(hidden, hidden, (2, 3), hidden.norm(dim=-1), keys=keys)
    choice = METHOD.select(signals, 5, steps=24)
    assert choice.kept.tolist() == [[0, 1, 3, 4, 5]]
    assert choice.replaced.tolist() == [[False, False, True, False, False]]
    assert (choice.hidden[0, 2] - hidden[0, 2:4].mean(dim=0)).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_averaged_in_float32(dtype):
    half = random_signals((5, 7), dtype=dtype)
    single = {"hidden": half.hidden.float(), "keys": half.keys.float()}
    full = METHOD.select(Signals(**{**vars(half), **single}), 9, steps=24)
    choice = METHOD.select(half, 9, steps=24)
    assert choice.hidden.dtype == dtype
    assert torch.equal(choice.kept, full.kept)
    assert torch.equal(choice.hidden, full.hidden.to(dtype))


def test_keys_are_those_of_the_projected_layer():
    assert METHOD.request(WITH_CLS, METHOD.options).keys_layer == 22
    request = METHOD.request(WITHOUT_CLS, METHOD.options)
    assert (request.keys_layer, request.layers) == (3, (3,))


@pytest.mark.parametrize("value", [0, 2.5, True, None])
def test_wrong_steps_are_named(value):
    with pytest.raises(ValueError, match=f"steps must be .*{value}"):
        METHOD.request(WITH_CLS, {"steps": value})
