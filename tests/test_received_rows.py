"""Received attention from sampled rows: a setting that reaches the encoder, or is refused."""

import pytest
import torch
from tiny_families import FAMILIES

from lvlm_prune import attach
from lvlm_prune.config import PruneConfig

EVERY = 10_000


def scores(rows: int | None) -> torch.Tensor:
    """What `cls` ranks the tokens of an image by, on an encoder without CLS token."""
    family = FAMILIES["qwen2_5_vl"]
    model, inputs = family.model(), family.prompts("tit")
    with torch.no_grad(), attach(model, method="cls", keep=4, received_rows=rows) as handle:
        assert handle.stage.request.received_rows == rows
        model(**inputs)
        return handle.report.scores[0]


def test_sampled_rows_reach_the_encoder():
    exact = scores(None)
    assert torch.equal(scores(EVERY), exact)
    sampled = scores(3)
    assert not torch.equal(sampled, exact)
    # Means over heads and rows of a softmax: either way they are shares of one.
    assert abs(float(sampled.mean() - exact.mean())) < 1e-6


@pytest.mark.parametrize(("name", "method"), [("llava", "cls"), ("qwen2_5_vl", "divprune")])
def test_rows_that_nothing_reads_are_refused(name, method):
    with pytest.raises(ValueError, match="received_rows=8 has no effect: method"):
        attach(FAMILIES[name].model(), method=method, keep=4, received_rows=8)


@pytest.mark.parametrize("rows", [0, -1, 2.0, True, "all"])
def test_rows_must_be_a_number(rows):
    with pytest.raises(ValueError, match="received_rows must be a positive int or None"):
        PruneConfig(received_rows=rows)
