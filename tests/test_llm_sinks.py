"""LLM sinks: both rules against plain Python, and which rule holds where."""

import math
import statistics

import pytest
import torch

from lvlm_prune.llm_sinks import (
    SinkRule,
    norm_ratio_sinks,
    phi,
    phi_sinks,
    sink_rule_for,
    split_sinks,
)

WIDTH = 16
LENGTH = 12


def states(seed: int = 0, batch: int = 2, width: int = WIDTH) -> torch.Tensor:
    """Residual streams whose tokens differ much in norm."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** torch.rand(batch, LENGTH, 1, generator=generator)
    return scale * torch.randn(batch, LENGTH, width, generator=generator)


def masks(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual columns 3..8, two columns of padding on the left of the first row."""
    visual = torch.zeros(batch, LENGTH, dtype=torch.bool)
    visual[:, 3:9] = True
    real = torch.ones_like(visual)
    real[0, :2] = False
    return visual, real


def slow_phi(row: list[float], dims: tuple[int, ...]) -> float:
    mean = sum(value * value for value in row) / len(row)
    return max(abs(row[dim]) for dim in dims) / math.sqrt(mean + 1e-6)


def slow_norm_sinks(hidden, visual, real, ratio) -> list[list[bool]]:
    """The norm rule, token by token."""
    marked = []
    for row, seen, own in zip(hidden.tolist(), visual.tolist(), real.tolist(), strict=True):
        norms = [math.sqrt(sum(value * value for value in token)) for token in row]
        median = {
            kind: statistics.median_low(
                [n for n, v, r in zip(norms, seen, own, strict=True) if r and v == kind]
            )
            for kind in (True, False)
        }
        marked.append(
            [r and n >= ratio * median[v] for n, v, r in zip(norms, seen, own, strict=True)]
        )
    return marked


@pytest.mark.parametrize("dims", [(0,), (3, 7), (15, 2, 9)])
def test_phi_is_its_formula(dims):
    hidden = states()
    expected = [[slow_phi(token, dims) for token in row] for row in hidden.tolist()]
    torch.testing.assert_close(phi(hidden, dims), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_phi_is_highest_where_one_dimension_holds_all():
    hidden = torch.zeros(3, WIDTH)
    hidden[0, 5], hidden[1, 6] = -1e4, 1e4
    value = phi(hidden, (5,))
    assert value[0] == pytest.approx(math.sqrt(WIDTH))
    assert value[1:].tolist() == [0, 0], "another dimension, and a token of zeros"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    """Squares of massive activations do not fit into half precision."""
    hidden = (states() * 300).to(dtype)
    assert torch.equal(phi(hidden, (1, 4)), phi(hidden.float(), (1, 4)))
    visual, real = masks()
    half = norm_ratio_sinks(hidden, visual, real, 2.0)
    assert torch.equal(half, norm_ratio_sinks(hidden.float(), visual, real, 2.0))


@pytest.mark.parametrize("ratio", [1.2, 1.5, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_norm_rule_is_its_definition(ratio, seed):
    hidden, (visual, real) = states(seed), masks()
    marked = norm_ratio_sinks(hidden, visual, real, ratio)
    assert marked.tolist() == slow_norm_sinks(hidden.double(), visual, real, ratio)
    assert marked.any()


def test_each_modality_has_its_own_median():
    """Visual tokens that are all larger than text are no sinks."""
    hidden = torch.ones(1, LENGTH, WIDTH)
    visual, _ = masks(1)
    hidden[visual] *= 10
    real = torch.ones_like(visual)
    assert not norm_ratio_sinks(hidden, visual, real).any()
    hidden[0, 4] *= 3
    hidden[0, 0] *= 3
    assert norm_ratio_sinks(hidden, visual, real)[0].nonzero()[:, 0].tolist() == [0, 4]


def test_padding_changes_nothing_and_is_never_marked():
    hidden, (visual, real) = states(), masks()
    marked = norm_ratio_sinks(hidden, visual, real, 1.5)
    hidden[~real] = 1e6
    assert torch.equal(norm_ratio_sinks(hidden, visual, real, 1.5), marked)
    assert not marked[~real].any()
    assert not SinkRule(dims=(0,), tau=0.01).marks(hidden, visual, real, 2)[~real].any()


def test_a_row_of_a_batch_is_judged_alone():
    hidden, (visual, real) = states(batch=3), masks(3)
    together = norm_ratio_sinks(hidden, visual, real, 2.0)
    for row in range(3):
        one = slice(row, row + 1)
        alone = norm_ratio_sinks(hidden[one], visual[one], real[one], 2.0)
        assert torch.equal(together[one], alone)


@pytest.mark.parametrize("visual", [True, False])
def test_one_modality_or_no_token_at_all(visual):
    hidden = states(batch=1)
    only = torch.full((1, LENGTH), visual)
    none = torch.zeros(1, LENGTH, dtype=torch.bool)
    assert norm_ratio_sinks(hidden, only, ~none, 1.2).any()
    assert not norm_ratio_sinks(hidden, only, none, 1.2).any()
    assert not norm_ratio_sinks(torch.zeros_like(hidden), only, ~none).any()


def test_emerged_and_propagated_sinks_are_the_llm_sinks():
    llm = torch.tensor([True, True, False, False])
    vit = torch.tensor([True, False, True, False])
    propagated, emerged = split_sinks(llm, vit)
    assert propagated.tolist() == [True, False, False, False]
    assert emerged.tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="do not match"):
        split_sinks(llm, vit[:3])


def test_phi_decides_where_it_is_separable_and_the_norm_elsewhere():
    hidden, (visual, real) = states(), masks()
    by_norm = norm_ratio_sinks(hidden, visual, real, 2.0)
    by_phi = phi_sinks(hidden, (3,), 1.5) & real
    assert not torch.equal(by_norm, by_phi)
    assert torch.equal(SinkRule((3,), 1.5, 2.0).marks(hidden, visual, real, 5), by_phi)
    rule = SinkRule(ratio=2.0)
    assert not rule.by_phi
    assert torch.equal(rule.marks(hidden, visual, real, 5), by_norm)


@pytest.mark.parametrize("layer", range(7))
def test_only_layers_of_the_rule_have_sinks(layer):
    hidden, (visual, real) = states(), masks()
    marked = SinkRule(ratio=1.5, first_layer=2, last_layer=4).marks(hidden, visual, real, layer)
    assert bool(marked.any()) == (2 <= layer <= 4)
    assert SinkRule(ratio=1.5).marks(hidden, visual, real, layer).any() == (layer >= 2)


@pytest.mark.parametrize("dims", [(WIDTH,), (-1,), (0, 2533)])
def test_dimensions_of_another_width_are_refused(dims):
    with pytest.raises(ValueError, match=rf"{dims[-1]}\] are not in 0..15"):
        phi(states(), dims)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, "ratio is 1.0"),
        ({"ratio": math.nan}, "ratio is nan"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"first_layer": 5, "last_layer": 4}, "last_layer 4 is before first_layer 5"),
        ({"first_layer": -1}, "first_layer is -1"),
        ({"last_layer": -1}, "last_layer is -1"),
        ({"dims": (-1,), "tau": 2.0}, "count from 0"),
        ({"dims": (1,)}, r"dims=\(1,\) without tau"),
        ({"tau": 2.0}, "tau=2.0 without dims"),
        ({"dims": (1,), "tau": math.inf}, "tau is inf"),
    ],
)
def test_rules_that_mark_nonsense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SinkRule(**settings)
    with pytest.raises(ValueError, match="at least one sink dimension"):
        phi(states(), ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": (True,), "tau": 2.0}, "dims must be a tuple of ints"),
        ({"dims": (1.0,), "tau": 2.0}, "dims must be a tuple of ints"),
        ({"dims": "1", "tau": 2.0}, "dims must be a tuple of ints"),
        ({"dims": (1,), "tau": "2"}, "tau must be a number"),
        ({"ratio": "3"}, "ratio must be a number"),
        ({"ratio": True}, "ratio must be a number"),
        ({"first_layer": "2"}, "first_layer must be an int"),
        ({"first_layer": 2.0}, "first_layer must be an int"),
        ({"last_layer": True}, "last_layer must be an int"),
    ],
)
def test_rules_of_wrong_types_are_refused(settings, message):
    with pytest.raises(TypeError, match=message):
        SinkRule(**settings)


def test_dims_may_be_a_list():
    rule = SinkRule(dims=[1, 2], tau=2.0)
    assert rule == SinkRule(dims=(1, 2), tau=2.0)
    assert hash(rule) == hash(SinkRule(dims=(1, 2), tau=2.0))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SinkRule(first_layer=4), r"first_layer 4 is not in 0..3"),
        (SinkRule((WIDTH,), 1.0), "not in 0..15"),
        (SinkRule((0,), 4.0), r"tau 4.0 marks nothing: phi is at most sqrt\(D\) = 4.00"),
    ],
)
def test_rules_of_another_llm_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        sink_rule_for(rule, 4, WIDTH)


def test_rule_that_holds():
    rule = SinkRule((0, WIDTH - 1), 3.99, first_layer=3)
    assert sink_rule_for(rule, 4, WIDTH) is rule
    assert sink_rule_for(None, 4, WIDTH) == SinkRule.uncalibrated(4)


@pytest.mark.parametrize(
    ("depth", "layers"), [(32, (2, 30)), (4, (2, 2)), (3, (1, 1)), (2, (1, 1))]
)
def test_without_calibration_the_last_layer_marks_nothing(depth, layers):
    rule = SinkRule.uncalibrated(depth)
    assert (rule.first_layer, rule.last_layer) == layers
    assert not rule.by_phi
    hidden = torch.ones(1, 5, 4)
    hidden[0, 0] *= 10
    real = torch.ones(1, 5, dtype=torch.bool)
    marked = [bool(rule.marks(hidden, ~real, real, layer).any()) for layer in range(depth)]
    assert [i for i, found in enumerate(marked) if found] == list(range(layers[0], layers[1] + 1))
