"""Every method on every family: exactly K tokens in the cache, the same for any neighbours."""

import pytest
import torch
from tiny_families import FAMILIES

from lvlm_prune import attach
from lvlm_prune.errors import MissingSignalError
from lvlm_prune.methods import METHODS

NOT_RESIZED = ("llava_next", "llava_onevision", "internvl")
CASES = [
    (method, name)
    for method in METHODS
    for name in FAMILIES
    if METHODS[method].drops and not (method == "downsample" and name in NOT_RESIZED)
]


def cached_columns(out) -> set[int]:
    """Lengths of the layers that cache keys."""
    return {layer.keys.shape[2] for layer in out.past_key_values.layers if hasattr(layer, "keys")}


@pytest.mark.parametrize(("method", "name"), CASES)
@torch.no_grad()
def test_exactly_k_tokens_in_any_company(method, name):
    family = FAMILIES[name]
    model = family.model()
    inputs = family.prompts("tit")
    batch = family.prompts("tit", "titit")
    visual = int((inputs["input_ids"] == 90).sum())
    for keep in (1, 4):
        with attach(model, method=method, keep=keep) as handle:
            out = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
            (alone,) = handle.report.kept
            model(**batch)
            together = handle.report.kept
        text = inputs["input_ids"].shape[1] - visual
        assert cached_columns(out) == {text + keep + 1}
        assert [len(kept) for kept in together] == [keep] * 3
        for kept in together:
            assert kept.tolist() == sorted(set(kept.tolist()))
        assert together[0].tolist() == alone.tolist()


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if family.video is not None]
)
@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].drops and m != "downsample"])
@torch.no_grad()
def test_videos(method, name):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("titvt")
    with attach(model, method=method, keep=3) as handle:
        model(**inputs)
        assert [len(kept) for kept in handle.report.kept] == [3, 3]


@pytest.mark.parametrize("name", NOT_RESIZED)
def test_images_that_cannot_be_made_smaller_are_refused(name):
    with pytest.raises(MissingSignalError, match="encodes a smaller image, .* 'grid' or 'pool'"):
        attach(FAMILIES[name].model(), method="downsample", keep=4)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_only_images_are_made_smaller(name):
    family = FAMILIES[name]
    with (
        attach(family.model(), method="downsample", keep=4),
        pytest.raises(ValueError, match="3 frame pairs, but only images"),
    ):
        family.model()(**family.prompts("tvt"))
