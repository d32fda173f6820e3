"""`divprune`: goldens, a loop reference, batches and duplicates."""

import pytest
import torch
from goldens import golden_files, load

from lvlm_prune.methods.divprune import max_min_order


@pytest.mark.parametrize("path", golden_files("divprune"))
def test_golden(path):
    golden = load(path)
    order = max_min_order(golden["feats"][None], golden["T"])[0]
    assert order.tolist() == golden["order"].tolist()
    assert order.sort().values.tolist() == golden["kept"].tolist()


def loop_order(features: torch.Tensor, k: int) -> list[int]:
    """Greedy max-min by the definition."""
    n = features.shape[0]
    unit = features / features.norm(dim=-1, keepdim=True)
    distance = (1 - unit @ unit.T).tolist()
    first = max(range(n), key=lambda a: min(distance[a][b] for b in range(n) if b != a))
    picked, rest = [first], [a for a in range(n) if a != first]
    while len(picked) < k:
        picked.append(max(rest, key=lambda a: min(distance[a][b] for b in picked)))
        rest.remove(picked[-1])
    return picked


def test_order_equals_a_loop_for_every_image_of_a_batch():
    torch.manual_seed(0)
    features = torch.randn(3, 15, 6)
    order = max_min_order(features, 7)
    for image in range(3):
        assert order[image].tolist() == loop_order(features[image], 7)


@pytest.mark.parametrize("k", [1, 3, 300])
def test_blocks_change_nothing_in_a_large_image(k):
    torch.manual_seed(1)
    features = torch.randn(1, 300, 24)
    assert max_min_order(features, k)[0].tolist() == loop_order(features[0].double(), k)


def test_half_precision_is_computed_in_float32():
    features = torch.randn(2, 40, 8).bfloat16()
    assert torch.equal(max_min_order(features, 9), max_min_order(features.float(), 9))


def test_duplicates_are_still_unique_rows():
    features = torch.ones(1, 6, 4)
    assert sorted(max_min_order(features, 6)[0].tolist()) == list(range(6))


def test_one_token_image():
    assert max_min_order(torch.randn(2, 1, 4), 1).tolist() == [[0], [0]]
