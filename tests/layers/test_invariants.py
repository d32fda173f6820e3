"""What holds of every method inside the LLM: counts, order, sinks, cached columns, dtypes."""

from dataclasses import replace

import pytest
import torch
from layers.layer_makers import choose, prompt

from lvlm_prune.errors import UnknownMethodError
from lvlm_prune.layers.contract import Projected
from lvlm_prune.layers.registry import LAYER_METHODS, layer_method_named

DEPTHS = (2, 3, 4, 24, 28, 32, 40)
ADAPTIVE = {"zipvl", "visipruner", "exit"}
METHODS = [pytest.param(method, id=name) for name, method in LAYER_METHODS.items()]
BUDGETED = [pytest.param(m, id=name) for name, m in LAYER_METHODS.items() if name not in ADAPTIVE]
TIED = [pytest.param(m, id=n) for n, m in LAYER_METHODS.items() if n not in {*ADAPTIVE, "random"}]
RANKED = [pytest.param(m, id=n) for n, m in LAYER_METHODS.items() if m.ranked and n not in ADAPTIVE]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_default_stages_fit_every_depth(method, depth):
    stages = method.stages(depth)
    layers = list(stages)
    assert layers
    assert layers == sorted(set(layers))
    assert all(1 <= layer <= depth - 1 for layer in layers)
    shares = list(stages.values())
    if method.name in ADAPTIVE:
        assert set(shares) == {None}
    else:
        assert shares == sorted(shares, reverse=True)
        assert all(0 < share <= 1 for share in shares)


@pytest.mark.parametrize("depth", DEPTHS)
def test_observed_layers_run_before_the_last_stage(depth):
    for method in LAYER_METHODS.values():
        if method.observed is not None:
            stages = list(method.stages(depth))
            layers = list(method.observed(stages, depth))
            assert min(layers) == stages[0] - 1
            assert max(layers) == stages[-1] - 1


@pytest.mark.parametrize("method", BUDGETED)
@pytest.mark.parametrize("past", [0, 3])
def test_exactly_the_budget_of_each_image(method, past):
    signals = prompt(images=(7, 12), past=past)
    for keep in [(a, b) for a in range(1, 8) for b in (1, 2, 6, 11, 12)]:
        kept = choose(method, signals, keep).kept
        assert kept.dtype == torch.int64
        assert kept.tolist() == sorted(set(kept.tolist()))
        found = [int(torch.isin(columns, kept).sum()) for columns in signals.images]
        assert found == list(keep)
        assert len(kept) == sum(keep)


@pytest.mark.parametrize("method", METHODS)
def test_the_selection_is_well_formed(method):
    signals = prompt(past=2)
    keep = () if method.name in ADAPTIVE else (4, 2)
    selection = choose(method, signals, keep)
    assert torch.isin(selection.kept, signals.visual).all()
    assert (selection.kept.diff() > 0).all()
    if selection.scores is not None:
        assert selection.scores.dtype == torch.float32
        assert selection.scores.shape == signals.visual.shape
        assert not selection.scores.isnan().any()
    if selection.merged is not None:
        assert torch.isin(selection.merged, selection.kept).all()
        assert (selection.merged.diff() > 0).all()
        assert selection.rows.shape == (len(selection.merged), signals.hidden.shape[1])
    again = choose(method, signals, keep)
    assert torch.equal(again.kept, selection.kept)


@pytest.mark.parametrize("method", RANKED)
def test_sinks_do_not_eat_the_budget(method):
    signals = prompt(images=(9, 9))
    plain = choose(method, signals, (3, 3))
    parts = plain.scores.split([len(columns) for columns in signals.images])
    best = torch.stack([c[part.argmax()] for c, part in zip(signals.images, parts, strict=True)])
    sinks = torch.zeros(len(signals.hidden), dtype=torch.bool)
    sinks[best] = True
    kept = choose(method, replace(signals, sinks=sinks), (3, 3)).kept
    assert not torch.isin(kept, best).any()
    everything = choose(method, replace(signals, sinks=sinks), (9, 9)).kept
    assert everything.tolist() == signals.visual.tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(method, dtype):
    signals = prompt(dtype=dtype)
    wide = replace(
        signals,
        hidden=signals.hidden.float(),
        entered=signals.entered.float(),
        rotary=tuple(table.float() for table in signals.rotary),
        projected={
            name: Projected(p.query.float(), p.key.float(), p.value.float(), p.scale)
            for name, p in signals.projected.items()
        },
    )
    keep = () if method.name in ADAPTIVE else (4, 3)
    half, full = choose(method, signals, keep), choose(method, wide, keep)
    assert half.kept.tolist() == full.kept.tolist()
    if half.rows is not None:
        assert half.rows.dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_cached_columns_that_nobody_sees_change_nothing(method):
    signals = prompt(past=0)
    longer = {}
    for name, p in signals.projected.items():
        # A key far against every query has weight 0; its value would show at once.
        away = torch.zeros(p.key.shape[0], 2, p.key.shape[2])
        query = torch.cat([p.query, torch.full_like(p.query[..., :1], 1e4)], dim=-1)
        pad = torch.zeros_like(p.key[..., :1])
        key = torch.cat([away, p.key], dim=1)
        key = torch.cat([key, torch.cat([torch.full_like(away[..., :1], -1e4), pad], 1)], dim=-1)
        value = torch.cat([torch.full_like(away, 1e3), p.value], dim=1)
        longer[name] = Projected(query, key, value, p.scale)
    keep = () if method.name in ADAPTIVE else (4, 3)
    options = {"debias": False} if method.name == "sparsevlm_plus" else {}
    plain = choose(method, signals, keep, **options)
    cached = choose(method, replace(signals, projected=longer), keep, **options)
    assert cached.kept.tolist() == plain.kept.tolist()


@pytest.mark.parametrize("method", TIED)
def test_equal_tokens_go_to_the_earlier(method):
    signals = prompt(images=(6,), text=(2, 3))
    parts = {}
    for name, p in signals.projected.items():
        key, value = p.key.clone(), p.value.clone()
        key[:, signals.visual], value[:, signals.visual] = 1.0, 1.0
        parts[name] = Projected(p.query, key, value, p.scale)
    hidden, entered = signals.hidden.clone(), signals.entered.clone()
    hidden[signals.visual], entered[signals.visual] = 1.0, 1.0
    observed = {layer: torch.ones_like(values) for layer, values in signals.observed.items()}
    angle = torch.zeros(len(hidden), p.query.shape[-1])
    equal = replace(
        signals, hidden=hidden, entered=entered, projected=parts, observed=observed,
        rotary=(angle.cos(), angle.sin()),
    )  # fmt: skip
    for keep in range(1, 7):
        kept = choose(method, equal, (keep,)).kept
        assert kept.tolist() == signals.visual[:keep].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_an_image_that_ends_the_prompt(method):
    signals = prompt(images=(6,), text=(3, 0))
    keep = () if method.name in ADAPTIVE else (2,)
    assert torch.isin(choose(method, signals, keep).kept, signals.visual).all()


def test_names():
    assert layer_method_named("fastv") is LAYER_METHODS["fastv"]
    assert all(method.name == name for name, method in LAYER_METHODS.items())
    with pytest.raises(UnknownMethodError, match="did you mean 'pyramiddrop'"):
        layer_method_named("piramiddrop")


@pytest.mark.parametrize("method", METHODS)
def test_unknown_options_are_named(method):
    with pytest.raises(ValueError, match="has no options"):
        method.complete({"colour": 1})


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("sparsevlm", {"recycle": 1}, TypeError),
        ("sparsevlm_plus", {"heads": 2.0}, ValueError),
        ("sparsevlm_plus", {"debias": "yes"}, TypeError),
        ("dart", {"image_pivots": 0}, ValueError),
        ("dart", {"text_pivots": 1.5}, TypeError),
        ("zipvl", {"share": 0}, ValueError),
        ("zipvl", {"share": 1.2}, ValueError),
        ("zipvl", {"rows": "all"}, ValueError),
        ("exit", {"tolerance": -1.0}, ValueError),
        ("exit", {"tolerance": "low"}, TypeError),
        ("exit", {"patience": 0}, ValueError),
        ("exit", {"after": 2}, ValueError),
        ("visipruner", {"shallow": 2}, ValueError),
        ("visipruner", {"turned": float("nan")}, ValueError),
        ("visipruner", {"patience": 0}, ValueError),
    ],
)
def test_wrong_options_are_refused(name, options, error):
    with pytest.raises(error, match=next(iter(options))):
        LAYER_METHODS[name].complete(options)
