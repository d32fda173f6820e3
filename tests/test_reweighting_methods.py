"""Every pruning method beside every reweighting: refused at attach, or the same selection."""

import pytest
import torch
from PIL import Image
from tiny_probe import tiny_loaded

from lvlm_prune import attach
from lvlm_prune.config import EVERYTHING
from lvlm_prune.methods import METHODS
from lvlm_prune.reweight.registry import REWEIGHTERS

KEEP = 4
REFUSED = {("flowcut", "paint"), ("downsample", "paint")}
DROPPING = [name for name in METHODS if name != EVERYTHING]


@pytest.fixture(scope="module")
def loaded():
    return tiny_loaded()


@pytest.fixture(scope="module")
def inputs(loaded):
    picture = Image.radial_gradient("L").convert("RGB").rotate(30)
    return loaded.inputs([picture], ["is there a cat ?"])


def kept(loaded, inputs, **settings) -> torch.Tensor:
    with attach(loaded.model, keep=KEEP, **settings) as handle:
        loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False)
        return handle.report.kept[0]


@pytest.mark.parametrize("reweight", REWEIGHTERS)
@pytest.mark.parametrize("method", DROPPING)
def test_a_reweighting_changes_nothing_that_is_kept(loaded, inputs, method, reweight):
    if (method, reweight) in REFUSED:
        with pytest.raises(ValueError, match="method"):
            attach(loaded.model, method=method, keep=KEEP, reweight=reweight)
        return
    alone = kept(loaded, inputs, method=method)
    assert torch.equal(kept(loaded, inputs, method=method, reweight=reweight), alone)
