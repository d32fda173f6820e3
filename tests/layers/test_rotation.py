"""Keys before the rotary embedding: each family's rotation undone, no position in the norms."""

import pytest
import torch
import torch.nn.functional as functional
from layers.layer_makers import prompt
from tiny_families import FAMILIES
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lvlm_prune.layers.rotation import without_rotation
from lvlm_prune.layers.stage import LayerStage


@pytest.mark.parametrize("scaling", [1.0, 1.7])
def test_the_rotation_of_transformers_is_undone(scaling):
    keys = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(3, 12)[:, None] * 0.3 ** torch.arange(4)
    angles = torch.cat([angles, angles], dim=-1)
    cosine, sine = scaling * angles.cos(), scaling * angles.sin()
    rotated = apply_rotary_pos_emb(keys[None], keys[None], cosine[None], sine[None])[1][0]
    assert (rotated - keys).abs().max() > 0.5
    assert (without_rotation(rotated, (cosine, sine)) - keys).abs().max() < 1e-5


def test_dimensions_that_were_not_rotated_and_unknown_tables():
    keys = prompt().previous.key
    cosine, sine = (table[:, :4] for table in prompt().rotary)
    found = without_rotation(keys, (cosine, sine))
    assert torch.equal(found[..., 4:], keys[..., 4:])
    assert not torch.equal(found[..., :4], keys[..., :4])
    assert torch.equal(without_rotation(keys, None), keys)


@pytest.mark.parametrize("name", ["llava", "internvl", "llava_onevision"])
@torch.no_grad()
def test_dart_chooses_the_same_behind_padding(name):
    """A call without positions counts padding, so a row's keys are rotated further."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit")
    padded = dict(inputs)
    schedule = {"method": "dart", "stages": {2: 0.4}}
    with LayerStage(model, schedule) as stage:
        model(**inputs)
        expected = stage.report.kept[2][0].tolist()
        for pad in (1, 3, 5, 8, 13, 21):
            for key in ("input_ids", "attention_mask"):
                padded[key] = functional.pad(inputs[key], (pad, 0))
            model(**padded)
            assert (stage.report.kept[2][0] - pad).tolist() == expected
