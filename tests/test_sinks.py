"""ViT sink detection on norm mixtures of known make, and the policies for sinks."""

import pytest
import torch
from tiny_families import FAMILIES
from tiny_models import TOKENS, prompts, tiny_llava

from lvlm_prune import attach, prune_inputs
from lvlm_prune.errors import MissingSignalError, NoSinksError
from lvlm_prune.methods import METHODS
from lvlm_prune.sinks import vit_sinks


def bulk(n: int = 576, seed: int = 0) -> torch.Tensor:
    """Norms of ordinary patches, around 40."""
    return 40 + 6 * torch.randn(1, n, generator=torch.Generator().manual_seed(seed))


def with_sinks(count: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ordinary norms with `count` outliers above 100, and the mask of the outliers."""
    norms = bulk()
    mask = torch.zeros_like(norms, dtype=torch.bool)
    places = torch.randperm(576, generator=torch.Generator().manual_seed(1))[:count]
    mask[0, places] = True
    norms[mask] = torch.linspace(105, 130, count)
    return norms * scale, mask


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("count", [0, 1, 4, 23])
def test_log_gap_finds_exactly_the_outliers_at_any_scale(count, scale):
    norms, mask = with_sinks(count, scale)
    assert torch.equal(vit_sinks(norms), mask)


def test_a_population_is_no_sinks():
    norms, _ = with_sinks(60)
    assert not vit_sinks(norms).any()


def test_low_outliers_are_no_sinks():
    norms = bulk()
    norms[0, :5] = 2.0
    assert not vit_sinks(norms).any()


def test_absolute_threshold_is_capped_at_the_highest_five_percent():
    norms, mask = with_sinks(4)
    assert torch.equal(vit_sinks(norms, threshold=100.0), mask)
    capped = vit_sinks(norms, threshold=1.0)
    assert int(capped.sum()) == 28
    assert bool(norms[capped].min() >= norms[~capped].max())


def test_images_of_a_batch_are_judged_alone():
    norms = torch.cat([with_sinks(4)[0], bulk(), with_sinks(1)[0]])
    together = vit_sinks(norms)
    assert together.sum(-1).tolist() == [4, 0, 1]
    for row, alone in zip(together, norms, strict=True):
        assert torch.equal(row, vit_sinks(alone[None])[0])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_tiny_images(n):
    assert vit_sinks(torch.rand(2, n) + 1).shape == (2, n)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.ranks])
@torch.no_grad()
def test_policies_hold_for_every_ranking_method(llava_sdpa, method):
    inputs = prompts("tit", "titi")
    norms = hidden_norms(llava_sdpa, inputs)
    threshold = float(norms.sort().values[:, -2].max())
    sinks = [set(row.nonzero()[:, 0].tolist()) for row in vit_sinks(norms, threshold)]
    assert any(sinks)
    assert not all(sinks)
    for policy in ("keep", "drop"):
        with attach(
            llava_sdpa, method=method, keep=5, sinks=policy, sink_threshold=threshold
        ) as handle:
            llava_sdpa.generate(**inputs, max_new_tokens=2)
            report = handle.report
        for kept, expected, marked in zip(report.kept, sinks, report.sinks, strict=True):
            assert set(marked.nonzero()[:, 0].tolist()) == expected
            assert kept.tolist() == sorted(set(kept.tolist()))
            assert len(kept) == 5
            rows = set(kept.tolist())
            assert expected <= rows if policy == "keep" else not expected & rows


def hidden_norms(model, inputs):
    """Norms of the encoder rows that are projected."""
    hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    return hidden.hidden_states[-2][:, 1:].norm(dim=-1)


@torch.no_grad()
def test_only_keeps_nothing_but_sinks(llava_sdpa):
    inputs = prompts("tit")
    threshold = float(hidden_norms(llava_sdpa, inputs).sort().values[0, -2])
    with attach(llava_sdpa, method="cls", keep=9, sinks="only", sink_threshold=threshold) as handle:
        llava_sdpa(**inputs)
    assert torch.equal(handle.report.kept[0], handle.report.sinks[0].nonzero()[:, 0])


def test_only_without_sinks_is_an_error_and_leaves_nothing(llava_sdpa):
    with (
        attach(llava_sdpa, method="cls", keep=9, sinks="only", sink_threshold=1e9),
        pytest.raises(NoSinksError, match="no ViT sink token"),
    ):
        llava_sdpa(**prompts("tit"))
    assert "generate" not in llava_sdpa.__dict__


def test_methods_that_rank_nothing_refuse_a_policy():
    with pytest.raises(MissingSignalError, match="ranks no tokens"):
        attach(tiny_llava(), method="pool", keep=4, sinks="drop")


@torch.no_grad()
def test_drop_gives_way_when_the_budget_needs_sinks(llava_sdpa):
    inputs = prompts("tit")
    threshold = float(hidden_norms(llava_sdpa, inputs).sort().values[0, -2])
    with attach(
        llava_sdpa, method="cls", keep=TOKENS, sinks="drop", sink_threshold=threshold
    ) as handle:
        llava_sdpa(**inputs)
    assert len(handle.report.kept[0]) == TOKENS


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_query_lets_sinks_ask_in_place_of_cls(name):
    """The scores are the attention that the marked tokens give, by the adapter's own signal."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tit", "titit")
    with attach(model, method="cls", keep=4, sinks="query") as handle:
        model(**inputs)
        scores, kept = handle.report.scores, handle.report.kept
        encoded = handle.stage.encode(inputs)
    with attach(model, method="cls", keep=4) as handle:
        model(**inputs)
        plain = handle.report.scores
    for group in encoded.groups:
        given = group.signals.sinks_given.mean(dim=1)
        for number, image in enumerate(group.images):
            assert torch.equal(scores[image][group.placeholders], given[number])
            best = given[number].argsort(descending=True, stable=True)[:4].sort().values
            assert torch.equal(kept[image], group.placeholders[best])
            if name in ("llava", "llava_next", "internvl"):
                assert not torch.allclose(scores[image], plain[image])


def test_query_needs_a_method_that_reads_attention():
    with pytest.raises(MissingSignalError, match="ranks by no attention that sinks='query'"):
        attach(tiny_llava(), method="divprune", keep=4, sinks="query")


@pytest.mark.parametrize("keep", [6, 1.0])
@torch.no_grad()
def test_sinks_first_reorders_features_and_nothing_else(llava_sdpa, keep):
    inputs = prompts("tit")
    threshold = float(hidden_norms(llava_sdpa, inputs).sort().values[0, -3])
    settings = {"method": "cls", "keep": keep, "sinks": "keep", "sink_threshold": threshold}
    plain, plan = prune_inputs(llava_sdpa, inputs, **settings)
    moved, same = prune_inputs(llava_sdpa, inputs, **settings, order="sinks_first")
    assert torch.equal(plan.kept[0], same.kept[0])
    assert torch.equal(plan.index, same.index)
    sinks = vit_sinks(hidden_norms(llava_sdpa, inputs), threshold)[0][plan.kept[0]]
    first = sinks.nonzero()[:, 0].tolist()
    rest = [place for place in range(len(sinks)) if place not in first]
    assert first + rest != sorted(first + rest)
    (before,) = plain["mm_encoder_outputs"]["image"].pooler_output
    (after,) = moved["mm_encoder_outputs"]["image"].pooler_output
    assert torch.equal(after, before[first + rest])


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_sinks_first_needs_single_patches(name):
    with pytest.raises(MissingSignalError, match="made of several; use order='raster'"):
        attach(FAMILIES[name].model(), method="cls", keep=4, order="sinks_first")


@torch.no_grad()
def test_only_asks_for_sinks_in_the_image_not_in_each_tile():
    family = FAMILIES["llava_next"]
    model, inputs = family.model(), family.prompts("tit")
    with attach(model, method="holov", keep=9, sinks="keep", sink_threshold=1e-3) as handle:
        norms = handle.stage.encode(inputs).groups[0].signals.norms[0]
    threshold = float(norms.sort().values[-2])
    with attach(model, method="holov", keep=9, sinks="only", sink_threshold=threshold) as handle:
        model(**inputs)
        assert len(handle.report.kept[0]) == 1
