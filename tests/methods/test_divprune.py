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
    """Greedy max-min by the definition, one distance at a time."""
    n = features.shape[0]
    unit = features / features.norm(dim=-1, keepdim=True)
    distance = [[1 - float(unit[a] @ unit[b]) for b in range(n)] for a in range(n)]
    first = max(range(n), key=lambda a: min(distance[a][b] for b in range(n) if b != a))
    picked = [first]
    while len(picked) < k:
        rest = [a for a in range(n) if a not in picked]
        picked.append(max(rest, key=lambda a: min(distance[a][b] for b in picked)))
    return picked


def test_order_equals_a_loop_for_every_image_of_a_batch():
    torch.manual_seed(0)
    features = torch.randn(3, 15, 6)
    order = max_min_order(features, 7)
    for image in range(3):
        assert order[image].tolist() == loop_order(features[image], 7)


def test_duplicates_are_still_unique_rows():
    features = torch.ones(1, 6, 4)
    assert sorted(max_min_order(features, 6)[0].tolist()) == list(range(6))


def test_one_token_image():
    assert max_min_order(torch.randn(2, 1, 4), 1).tolist() == [[0], [0]]
