"""The runs of a grid: policies that nothing can follow are refused, not ignored."""

import pytest

from lvlm_prune.eval.configs import grid_configs


def test_a_policy_that_no_method_can_follow_is_refused():
    with pytest.raises(ValueError, match="sinks='drop' would do nothing: none of grid, pool"):
        grid_configs(["grid", "pool", "identity"], [4], ["ignore", "drop"])


def test_controls_go_without_a_policy_that_others_follow():
    configs = grid_configs(["cls", "grid"], [4], ["drop"])
    assert [(config.method, config.sinks) for config in configs] == [
        ("cls", "drop"),
        ("grid", "ignore"),
    ]
