"""What holds of every reweighter: rows sum to 1, strength 0, padding, batches, odd prompts."""

from dataclasses import replace

import pytest
import torch
from reweight.row_makers import last_row, padded, prompt_rows

from lvlm_prune.errors import UnknownMethodError
from lvlm_prune.reweight.registry import REWEIGHTERS, reweighter_named

ZERO = {
    "var": {"move": 0.0},
    "pai": {"alpha": 0.0},
    "paint": {"alpha": 0.0, "beta": 0.0},
    "headguide": {"alpha": 0.0},
    "gift": {"alpha": 0.0},
    "ilvad": {"alpha": 0.0},
    "vhr": {"strength": 0.0},
    "restore": {"strength": 0.0},
}
# Options that change something on every kind of row.
STRONG = {"var": {"rho": 0.0, "summ": 0.0}, "restore": {"distance": True, "decode": True}}
# VCD acts on logits alone.
EDITING = [name for name in REWEIGHTERS if name != "vcd"]
ALL = pytest.mark.parametrize("name", EDITING)
KINDS = pytest.mark.parametrize("decoding", [False, True], ids=["prefill", "decode"])


def edit(name, rows, options=None):
    method = REWEIGHTERS[name]
    return method.edit(
        rows, **method.complete(STRONG.get(name, {}) if options is None else options)
    )


def is_plain(edited, rows):
    scaled = edited.heads is not None and bool((edited.heads != 1).any())
    return torch.equal(edited.weights, rows.weights) and not scaled


def check_rows(edited):
    assert edited.weights.dtype == torch.float32
    assert (edited.weights >= 0).all()
    assert (edited.weights.sum(dim=-1) - 1).abs().max() < 1e-6
    for tensor in [*edited.marks.values(), *([] if edited.heads is None else [edited.heads])]:
        assert tensor.isfinite().all()


def test_every_reweighter_has_a_zero():
    assert set(ZERO) == set(EDITING)


@ALL
@KINDS
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_sum_to_one_and_something_changes(name, decoding, seed):
    rows = padded(
        [prompt_rows(seed, decoding=decoding), prompt_rows(seed + 9, 2, 14, 4, decoding=decoding)]
    )
    edited = edit(name, rows)
    check_rows(edited)
    assert not is_plain(edited, rows)
    # What a row does not see, it never gets to see.
    assert (edited.weights[rows.logits == -torch.inf] == 0).all()


@ALL
@KINDS
def test_zero_strength_is_exactly_plain(name, decoding):
    rows = padded([prompt_rows(3, decoding=decoding), prompt_rows(4, 5, 3, 2, decoding=decoding)])
    assert is_plain(edit(name, rows, ZERO[name]), rows)


@ALL
@KINDS
@pytest.mark.parametrize("more", [0, 3])
def test_a_prompt_in_a_batch_is_the_prompt_alone(name, decoding, more):
    prompts = [
        prompt_rows(5, decoding=decoding),
        prompt_rows(6, 2, 14, 4, decoding=decoding),
        prompt_rows(7, 6, 2, 9, decoding=decoding),
        prompt_rows(8, 1, 5, 1, decoding=decoding),
    ]
    together = edit(name, padded(prompts, more))
    for i, rows in enumerate(prompts):
        alone = edit(name, rows)
        count, keys = rows.logits.shape[2:]
        assert (together.weights[i, :, -count:, -keys:] - alone.weights[0]).abs().max() < 1e-6
        if alone.heads is not None:
            assert (together.heads[i, :, -count:] - alone.heads[0]).abs().max() < 1e-6
        for mark, values in alone.marks.items():
            assert (together.marks[mark][i, -keys:] - values[0]).abs().max() < 1e-5


@ALL
@KINDS
def test_prompts_without_an_image_are_plain(name, decoding):
    rows = prompt_rows(9, decoding=decoding)
    blind = replace(
        rows,
        visual=torch.zeros_like(rows.visual),
        marks={mark: torch.zeros_like(values) for mark, values in rows.marks.items()},
    )
    edited = edit(name, blind)
    check_rows(edited)
    assert is_plain(edited, blind)


@ALL
@KINDS
def test_marks_that_nobody_made_are_zero(name, decoding):
    rows = replace(prompt_rows(9, decoding=decoding), marks={})
    edited = edit(name, rows, {})
    check_rows(edited)
    needs = REWEIGHTERS[name].encoder or REWEIGHTERS[name].observe
    assert is_plain(edited, rows) or not needs


@ALL
@KINDS
def test_rows_that_see_no_visual_key_are_plain(name, decoding):
    rows = prompt_rows(10, decoding=decoding)
    hidden = rows.visual[:, None, None].expand_as(rows.logits)
    blind = replace(rows, logits=rows.logits.masked_fill(hidden, -torch.inf))
    edited = edit(name, blind)
    check_rows(edited)
    assert is_plain(edited, blind)


@ALL
@KINDS
@pytest.mark.parametrize(
    "size", [{"heads": 1}, {"heads": 3}, {"visual": 1}, {"text": 1}, {"before": 1}]
)
def test_small_prompts(name, decoding, size):
    check_rows(edit(name, prompt_rows(11, decoding=decoding, **size)))


@ALL
def test_large_logits(name):
    rows = prompt_rows(12)
    check_rows(edit(name, replace(rows, logits=rows.logits * 40)))


@ALL
def test_all_rows_are_padding(name):
    rows = prompt_rows(13)
    rows = replace(rows, edited=torch.zeros_like(rows.edited))
    check_rows(edit(name, rows))


@ALL
def test_the_last_row_does_not_need_the_others(name):
    rows = prompt_rows(14)
    alone = edit(name, last_row(rows, decoding=False)).weights[:, :, -1]
    assert (edit(name, rows).weights[:, :, -1] - alone).abs().max() < 1e-6


@ALL
def test_inputs_are_not_written_to(name):
    rows, fresh = prompt_rows(15), prompt_rows(15)
    edit(name, rows)
    assert torch.equal(rows.logits, fresh.logits)
    assert torch.equal(rows.value, fresh.value)
    assert all(torch.equal(rows.marks[mark], fresh.marks[mark]) for mark in rows.marks)


@ALL
@pytest.mark.parametrize("depth", [1, 2, 4, 24, 28, 32, 40])
def test_layers_exist_in_every_depth(name, depth):
    method = REWEIGHTERS[name]
    for preset in ({}, *method.presets.values()):
        options = method.complete(preset)
        layers = list(method.layers(options, depth))
        assert layers
        assert set(layers) <= set(range(depth))
        if method.observed is not None:
            assert set(method.observed(options, depth)) <= set(range(depth))


@ALL
def test_wrong_options_are_named(name):
    method = REWEIGHTERS[name]
    with pytest.raises(ValueError, match=f"{name}.*no options.*typo.*allowed"):
        method.complete({"typo": 1})
    option = next(iter(ZERO[name]))
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{option}=.*pass"):
            method.complete({option: value})
    for value in ("1", True, None):
        with pytest.raises(TypeError, match=f"{option} must be a number"):
            method.complete({option: value})


@ALL
def test_names_and_presets(name):
    method = reweighter_named(name)
    assert method.name == name
    assert all(method.complete(preset) for preset in method.presets.values())
    assert method.rows in ("text", "last")
    assert method.evidence


def test_unknown_names_are_errors():
    with pytest.raises(UnknownMethodError, match="did you mean 'ilvad'"):
        reweighter_named("ilvat")
