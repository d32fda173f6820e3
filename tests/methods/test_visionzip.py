"""`visionzip`: goldens of the official code, a loop reference, and both merges."""

import pytest
import torch
from goldens import golden_files, load

from lvlm_prune.methods import METHODS
from lvlm_prune.methods.visionzip import contextual_rows
from lvlm_prune.signals import Signals, row_norms


def signals_of(golden: dict) -> Signals:
    """The golden's arrays as signals of one image; row 0 of hidden and keys is the CLS token."""
    patches = golden["hidden"][None, 1:]
    side = int(patches.shape[1] ** 0.5)
    return Signals(
        features=patches,
        hidden=patches,
        grid=(side, side),
        norms=row_norms(patches),
        cls_hidden=golden["hidden"][None, 0],
        cls=golden["cls_attn"][None, None],
        keys=golden["keys"][None, :, 1:],
    )


@pytest.mark.parametrize("path", golden_files("visionzip"))
def test_golden(path):
    golden = load(path)
    total, contextual = golden["T"], golden["contextual"]
    options = METHODS["visionzip"].complete({"contextual_share": contextual / total})
    choice = METHODS["visionzip"].select(signals_of(golden), total, **options)
    # Official order: the CLS row, dominant patches in raster order, contextual rows.
    dominant = golden["dominant_idx"][1:] - 1
    official = {
        int(patch): row for patch, row in zip(dominant, golden["out_tokens"][1:], strict=False)
    }
    merged = golden["out_tokens"][golden["dominant"] :]
    plain = choice.kept[0][~choice.replaced[0]]
    assert plain.tolist() == dominant.tolist()
    rows = choice.hidden[0]
    for patch, row in zip(choice.kept[0].tolist(), rows, strict=True):
        if patch in official:
            assert torch.equal(row, official[patch])
    # Ours stand at their own patches, the CLS row at the first free one.
    changed = rows[choice.replaced[0]]
    cls_place = (
        choice.kept[0][choice.replaced[0]]
        .tolist()
        .index(next(p for p in range(total) if p not in plain.tolist() + targets_of(golden)))
    )
    assert torch.equal(changed[cls_place], golden["hidden"][0])
    others = torch.cat([changed[:cls_place], changed[cls_place + 1 :]])
    assert (others - merged).abs().max() < 1e-5


def targets_of(golden: dict) -> list[int]:
    """Evenly spaced patches among those that are not dominant."""
    n = golden["hidden"].shape[0] - 1
    dominant = set((golden["dominant_idx"][1:] - 1).tolist())
    rest = [patch for patch in range(n) if patch not in dominant]
    step = max(1, len(rest) // golden["contextual"])
    return rest[::step][: golden["contextual"]]


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_contextual_rows_equal_a_loop(merge):
    torch.manual_seed(0)
    hidden, keys = torch.randn(2, 20, 5), torch.randn(2, 3, 20, 4)
    dominant = torch.tensor([[1, 4, 9], [0, 2, 19]])
    targets, rows, sizes, groups = contextual_rows(hidden, keys, dominant, 4, merge)
    for image in range(2):
        rest = [i for i in range(20) if i not in dominant[image].tolist()]
        places = rest[:: len(rest) // 4][:4]
        assert targets[image].tolist() == places
        metric = keys[image].mean(0)
        metric = metric / metric.norm(dim=-1, keepdim=True)
        assigned = {place: [] for place in places}
        for patch in rest:
            if patch not in places:
                nearest = max(places, key=lambda place: float(metric[patch] @ metric[place]))
                assigned[nearest].append(hidden[image, patch])
                assert groups[image, patch] == nearest
        for place, row in zip(places, rows[image], strict=True):
            target, group = hidden[image, place], assigned[place]
            if merge == "mean":
                expected = torch.stack([target, *group]).mean(0)
            else:
                expected = target + (torch.stack(group).mean(0) if group else 0)
            assert (row - expected).abs().max() < 1e-5
        assert sizes[image].tolist() == [1 + len(assigned[place]) for place in places]
        assert all(groups[image, row] == row for row in [*places, *dominant[image].tolist()])


@pytest.mark.parametrize(("keep", "split"), [(64, 10), (128, 20), (192, 30), (1, 0), (2, 0)])
def test_budget_is_split_as_in_the_paper(keep, split):
    torch.manual_seed(0)
    hidden = torch.randn(1, 576, 8)
    cls_hidden = torch.randn(1, 8)
    signals = Signals(
        features=hidden,
        hidden=hidden,
        grid=(24, 24),
        norms=row_norms(hidden),
        cls_hidden=cls_hidden,
        cls=torch.rand(1, 1, 2, 576),
        keys=torch.randn(1, 2, 576, 4),
    )
    choice = METHODS["visionzip"].select(signals, keep, **METHODS["visionzip"].options)
    assert choice.kept.shape == (1, keep)
    assert int(choice.replaced.sum()) == split + (1 if keep - split > 1 else 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"merge": "max"}, "merge must be one of sum, mean"), ({"contextual_share": 1}, r"\[0, 1\)")],
)
def test_wrong_options_are_named(options, message):
    method = METHODS["visionzip"]
    with pytest.raises(ValueError, match=message):
        method.request(None, method.complete(options))
