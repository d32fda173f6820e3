"""`dart`: goldens of the choice given pivots, a loop reference, texts of different length."""

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

from lvlm_prune.methods.dart import METHOD, equal_shares, largest_rows, least_similar
from lvlm_prune.signals import Signals, row_norms


@pytest.mark.parametrize("path", golden_files("dart"))
def test_golden_given_the_order_of_pivots(path):
    golden = load(path)
    start, n = golden["image_start"], golden["image_len"]
    hidden, keep = golden["hidden"][None], len(golden["kept"])
    pivots = hidden[:, golden["pivot_iter_order"]]
    kept = golden["pivot_image_idx"][None] - start
    shares = equal_shares(torch.tensor([pivots.shape[1]]), keep - kept.shape[1])
    assert shares.tolist() == [[golden["per_pivot"]] * pivots.shape[1]]
    turn = least_similar(hidden[:, start : start + n], pivots, shares, kept)
    chosen = (turn[0] <= pivots.shape[1]).nonzero()[:, 0] + start
    assert chosen.tolist() == golden["kept"].tolist()


@pytest.mark.parametrize("path", golden_files("dart"))
def test_golden_pivots(path):
    golden = load(path)
    start, end = golden["image_start"], golden["image_start"] + golden["image_len"]
    keys = golden["keys"].transpose(0, 1).flatten(1)
    visual = largest_rows(keys[start:end], golden["pivot_image"]) + start
    text = largest_rows(keys[end:], golden["pivot_text"]) + end
    assert visual.tolist() == golden["pivot_image_idx"].tolist()
    assert text.tolist() == golden["pivot_text_idx"].tolist()


def loop_turns(signals: Signals, image: int, keep: int, visual: int, text: int) -> dict[int, int]:
    """Kept tokens and the turn in which each is taken, by the definition, in float64."""
    features = signals.features[image].double()
    norms = features.abs().sum(dim=-1).tolist()
    pivots = sorted(range(len(norms)), key=lambda row: (-norms[row], row))[: min(visual, keep)]
    turns = dict.fromkeys(pivots, 0)
    vectors = [features[row] for row in pivots]
    if text:
        words = signals.text[image].double()
        vectors += sorted(words, key=lambda word: -float(word.abs().sum()))[:text]
    left = keep - len(pivots)
    for number, vector in enumerate(vectors):
        free = [row for row in range(len(norms)) if row not in turns]
        free.sort(key=lambda row: float(torch.cosine_similarity(features[row], vector, dim=0)))
        share = left // len(vectors) + (number < left % len(vectors))
        turns.update(dict.fromkeys(free[:share], number + 1))
    return turns


@pytest.mark.parametrize(("visual", "text"), [(4, 4), (4, 0), (1, 6), (3, 1)])
@pytest.mark.parametrize("keep", [1, 3, 4, 5, 13, 34])
def test_kept_equal_a_loop_for_every_image(keep, visual, text):
    signals = random_signals((5, 7))
    choice = METHOD.select(signals, keep, image_pivots=visual, text_pivots=text)
    for image in range(3):
        turns = loop_turns(signals, image, keep, visual, text)
        assert choice.kept[image].tolist() == sorted(turns)
        scores = [1 / (turns[row] + 1) if row in turns else 0.0 for row in range(35)]
        assert choice.scores[image].tolist() == pytest.approx(scores)


def test_shares_are_equal_and_leave_nothing():
    shares = equal_shares(torch.tensor([5, 8, 1]), 13)
    assert shares.tolist() == [[3, 3, 3, 2, 2, 0, 0, 0], [2, 2, 2, 2, 2, 1, 1, 1], [13] + [0] * 7]


def test_the_question_changes_the_choice_only_with_text_pivots():
    signals = random_signals((5, 7), images=1)
    other = Signals(**{**vars(signals), "text": [-signals.text[0]]})
    for text, same in ((4, False), (0, True)):
        options = {"image_pivots": 4, "text_pivots": text}
        first, second = (METHOD.select(each, 12, **options) for each in (signals, other))
        assert torch.equal(first.kept, second.kept) == same


def test_a_prompt_without_text_has_visual_pivots_only():
    signals = random_signals((5, 7), images=1)
    empty = Signals(**{**vars(signals), "text": [signals.text[0][:0]]})
    kept = METHOD.select(empty, 12, **METHOD.options).kept
    assert torch.equal(kept, METHOD.select(signals, 12, image_pivots=4, text_pivots=0).kept)


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (3, 5), (4, 6)])
@pytest.mark.parametrize("text", [0, 4])
def test_every_budget(grid, text):
    check_every_budget(METHOD, random_signals(grid, has_cls=False), text_pivots=text)


def test_equal_tokens():
    check_every_budget(METHOD, equal_signals((4, 6)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    half = random_signals((5, 7), dtype=dtype)
    single = {"features": half.features.float(), "text": [text.float() for text in half.text]}
    full = Signals(**{**vars(half), **single})
    kept = METHOD.select(half, 12, **METHOD.options).kept
    assert torch.equal(kept, METHOD.select(full, 12, **METHOD.options).kept)


def test_large_values_in_half_precision_do_not_overflow():
    features = torch.full((1, 8, 4), 30000.0)
    features[0, :, 1] = torch.arange(8) * 1000.0
    signals = Signals(features.half(), features.half(), (2, 4), row_norms(features))
    assert METHOD.select(signals, 3, image_pivots=3, text_pivots=0).kept.tolist() == [[5, 6, 7]]


def test_text_is_asked_for_only_where_it_is_read():
    for shape in (WITH_CLS, WITHOUT_CLS):
        assert METHOD.request(shape, METHOD.options).text
        request = METHOD.request(shape, METHOD.complete({"text_pivots": 0}))
        assert not request.text
        assert request.layers == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_pivots": 0}, "image_pivots must be a whole number of 1 or more, got 0"),
        ({"text_pivots": -1}, "text_pivots must be a whole number of 0 or more, got -1"),
        ({"text_pivots": 4.0}, "text_pivots must be .* got 4.0"),
        ({"text_pivots": False}, "text_pivots must be .* got False"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        METHOD.request(WITH_CLS, METHOD.complete(options))
