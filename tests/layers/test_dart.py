"""`dart` inside the LLM: goldens and where it leaves them, a loop, several images."""

import math

import pytest
import torch
from goldens import golden_files, load
from layers.layer_makers import choose, golden_prompt, prompt

from lvlm_prune.layers.contract import LayerSignals, Projected
from lvlm_prune.layers.dart import METHOD
from lvlm_prune.methods.dart import least_similar


def signals_of(golden: dict) -> LayerSignals:
    """The golden's keys and hidden states before layer 2."""
    keys = golden["keys"]
    return golden_prompt(
        golden, hidden=golden["hidden"], projected={"previous": Projected(keys, keys, keys, 1.0)}
    )


@pytest.mark.parametrize("path", golden_files("dart"))
def test_golden_up_to_the_turns_of_the_pivots(path):
    golden = load(path)
    signals = signals_of(golden)
    visual, keep = signals.visual, len(golden["kept"])
    selection = choose(METHOD, signals, [keep])
    scores = selection.scores
    # The same pivots.
    assert sorted(visual[scores == 1].tolist()) == sorted(golden["pivot_image_idx"].tolist())
    # In the official order, that of a Python set, the choice would be the official one.
    kept = golden["pivot_image_idx"][None] - golden["image_start"]
    for order, same in ((golden["pivot_iter_order"], True), (descending(golden), False)):
        shares = torch.full((1, len(order)), golden["per_pivot"])
        turn = least_similar(
            golden["hidden"][visual][None], golden["hidden"][order][None], shares, kept
        )
        chosen = visual[turn[0] <= len(order)].tolist()
        assert (chosen == golden["kept"].tolist()) == same
    # Ours is the choice in the order of descending norms.
    assert selection.kept.tolist() == chosen
    assert len(set(chosen) & set(golden["kept"].tolist())) > 0.7 * keep


def descending(golden: dict) -> list[int]:
    """Visual pivots and then text pivots, each by descending L1 norm of their keys."""
    norms = golden["keys"].double().abs().sum(dim=(0, 2))
    parts = golden["pivot_image_idx"].tolist(), golden["pivot_text_idx"].tolist()
    return [c for part in parts for c in sorted(part, key=lambda c: -float(norms[c]))]


@pytest.mark.parametrize("path", golden_files("dart"))
def test_the_named_budget_is_met_where_the_official_rounds(path):
    golden = load(path)
    assert len(golden["kept"]) == 4 + 8 * golden["per_pivot"] != golden["T"]
    assert len(choose(METHOD, signals_of(golden), [golden["T"]]).kept) == golden["T"]


def unrotated(keys: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn each pair (k, k + half) back by its angle; dimensions behind them were not rotated."""
    back, half = keys.clone(), rotary[0].shape[1] // 2
    for column in range(keys.shape[1]):
        for k in range(half):
            cosine, sine = float(rotary[0][column, k]), float(rotary[1][column, k])
            x, y = keys[:, column, k], keys[:, column, k + half]
            back[:, column, k] = x * cosine + y * sine
            back[:, column, k + half] = y * cosine - x * sine
    return back


def slow_choice(signals: LayerSignals, image: int, keep: int, pivots: tuple[int, int]) -> list[int]:
    """By the definition, in plain Python."""
    past, keys = signals.previous.past, signals.previous.key.double()
    keys = torch.cat([keys[:, :past], unrotated(keys[:, past:], signals.rotary)], 1)
    hidden = signals.hidden.double()
    norm = [float(keys[:, past + c].abs().sum()) for c in range(len(hidden))]
    columns = signals.images[image].tolist()
    behind = [c for c in signals.text.tolist() if c > int(signals.images[0][0])]
    mine = sorted(columns, key=lambda c: (-norm[c], c))[: min(pivots[0], keep)]
    turns = mine + sorted(behind, key=lambda c: (-norm[c], c))[: pivots[1]]
    kept, left = list(mine), keep - len(mine)
    for number, pivot in enumerate(turns):
        share = left // len(turns) + (number < left % len(turns))
        free = [c for c in columns if c not in kept]
        free.sort(key=lambda c: (cosine(hidden[c], hidden[pivot]), c))
        kept += free[:share]
    return sorted(kept)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("pivots", [(4, 4), (1, 0), (2, 9)])
def test_selection_equals_a_loop(past, pivots):
    signals = prompt(images=(12, 9), past=past, seed=5)
    options = {"image_pivots": pivots[0], "text_pivots": pivots[1]}
    for keep in ((1, 2), (7, 5), (12, 8)):
        expected = [c for image in (0, 1) for c in slow_choice(signals, image, keep[image], pivots)]
        assert choose(METHOD, signals, keep, **options).kept.tolist() == expected
