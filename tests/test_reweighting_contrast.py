"""Contrasts in `generate`: both branches equal whole passes of the stock model, row by row."""

import math

import pytest
import torch
import transformers
from packaging import version
from reweight_oracle import Oracle
from test_reweighting import ACTIVE, FAMILIES, far, plain
from tiny_families import IMAGE, PAD, SPECIAL, VIDEO
from tiny_generic import GENERIC
from torch import Tensor
from transformers import DynamicCache, set_seed

from lvlm_prune import attach
from lvlm_prune.reweight.branch import with_noise
from lvlm_prune.reweight.contrast import noised
from lvlm_prune.reweight.engine import Reweighting
from lvlm_prune.reweight.registry import REWEIGHTERS

PAI = {"method": "pai", "options": {"alpha": 0.3, "gamma": 1.6, "beta": 0.05}}
VCD = {"method": "vcd", "options": {"alpha": 0.8, "beta": 0.02, "step": 900, "seed": 7}}
METHODS = pytest.mark.parametrize("config", [PAI, VCD], ids=["pai", "vcd"])


@torch.no_grad()
def text_logits(name: str, inputs: dict, answer: Tensor) -> Tensor:
    """Logits of prompts without images, each by itself, `[B, n, V]`."""
    found = []
    for ids, tokens in zip(inputs["input_ids"].tolist(), answer.tolist(), strict=True):
        text = [one for one in ids if one not in (IMAGE, VIDEO, PAD)]
        model = FAMILIES[name].model("eager")
        logits = model(input_ids=torch.tensor([text + tokens]), use_cache=False).logits
        found.append(logits[0, len(text) - 1 :])
    return torch.stack(found)


def noised_inputs(inputs: dict, step: int, seed: int) -> dict:
    """Every image, or tile of one, under the same noise, drawn for it alone."""
    pixels = inputs["pixel_values"].clone()
    sizes = [1] * len(pixels)
    if "image_grid_thw" in inputs:
        sizes = [math.prod(grid) for grid in inputs["image_grid_thw"].tolist()]
    for image in pixels.split(sizes):
        for picture in image[0] if pixels.dim() == 5 else [image]:
            picture[:] = noised(picture, step, torch.Generator().manual_seed(seed))
    return {**inputs, "pixel_values": pixels}


def contrasted(name: str, config: dict, inputs: dict, answer: Tensor) -> Tensor:
    """Scores before each token of an answer, by the papers' formulas."""
    model, given = FAMILIES[name].model("eager"), config["options"]
    method = REWEIGHTERS[config["method"]]
    answer = answer[:, :-1]
    image = Oracle(model, method, method.complete(given)).logits(inputs, answer)
    image[..., SPECIAL] = -torch.inf
    if config is PAI:
        image = image.log_softmax(-1)
        other = text_logits(name, inputs, answer).log_softmax(-1)
        mixed = given["gamma"] * (image - other) + other
    else:
        plain_model = Oracle(model, method, method.complete({}))
        noisy = noised_inputs(inputs, given["step"], given["seed"])
        mixed = (1 + given["alpha"]) * image - given["alpha"] * plain_model.logits(noisy, answer)
    least = image.max(-1, keepdim=True).values + math.log(given["beta"])
    return mixed.masked_fill(image < least, -torch.inf)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 3e-5) -> bool:
    """Whether scores agree, and the same tokens are cut off."""
    return (
        bool((ours.isfinite() == theirs.isfinite()).all())
        and far(ours[ours.isfinite()], theirs[theirs.isfinite()]) < tolerance
    )


def scored(name: str, config: dict, inputs: dict, **settings):
    """Tokens `[R, n]` and scores `[R, n, V]` of `generate`."""
    with Reweighting(FAMILIES[name].model(), config):
        out = (
            FAMILIES[name]
            .model()
            .generate(
                **inputs,
                **{"max_new_tokens": 4, **settings},
                return_dict_in_generate=True,
                output_scores=True,
            )
        )
    count = len(out.scores)
    return out.sequences[:, -count:], torch.stack(out.scores, 1)


@METHODS
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_scores_equal_the_formula(name, config):
    inputs = FAMILIES[name].prompts("ttitt", "titi")
    tokens, scores = scored(name, config, inputs)
    theirs = contrasted(name, config, inputs, tokens)
    assert close(scores, theirs, 10 * FAMILIES[name].tolerance)
    stock = plain(FAMILIES[name].model(), inputs)[0]
    assert not torch.equal(stock, tokens)


@METHODS
def test_samples_equal_the_formula(config):
    """The first branch runs once for each prompt, and is repeated for its samples."""
    inputs = FAMILIES["qwen2_5_vl"].prompts("titt")
    set_seed(2)
    settings = {"do_sample": True, "num_return_sequences": 3, "temperature": 1.0, "top_k": 0}
    tokens, scores = scored("qwen2_5_vl", config, inputs, **settings)
    assert len({tuple(row) for row in tokens.tolist()}) > 1
    for row in range(3):
        theirs = contrasted("qwen2_5_vl", config, inputs, tokens[row : row + 1])
        assert close(scores[row : row + 1], theirs)


@METHODS
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_5"])
def test_beams_add_up_the_formula(name, config):
    """The second branch follows rows that move; its scores are probabilities again."""
    if name == "qwen3_5" and version.parse(transformers.__version__) < version.parse("5.23"):
        pytest.skip("stock beams of recurrent layers do not add up before transformers 5.23")
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("titt")
    with Reweighting(model, config):
        out = model.generate(
            **inputs,
            num_beams=4,
            num_return_sequences=3,
            max_new_tokens=5,
            return_dict_in_generate=True,
            output_scores=True,
        )
    for row, score in zip(out.sequences, out.sequences_scores, strict=True):
        answer = row[None, inputs["input_ids"].shape[1] :]
        chances = contrasted(name, config, inputs, answer).log_softmax(-1)
        assert abs(chances.gather(2, answer[..., None]).mean() - score) < 1e-4


@METHODS
def test_speculation_equals_greedy(config):
    """Tokens that are rejected are taken back from the second branch too."""
    inputs = FAMILIES["llava"].prompts("titit")
    greedy, _ = scored("llava", config, inputs, max_new_tokens=8)
    looked, _ = scored("llava", config, inputs, max_new_tokens=8, prompt_lookup_num_tokens=3)
    assert torch.equal(looked, greedy)


@METHODS
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_both_branches_are_pruned_before_the_llm(name, config):
    """A row equals the prompt alone, speculation equals greedy, and beams run."""
    family = FAMILIES[name]
    model, single = family.model(), family.prompts("ttitt")
    with attach(model, method="visionzip", keep=6, reweight=config) as handle:
        batch = model.generate(**family.prompts("ttitt", "titi", "tt"), max_new_tokens=6)
        greedy = model.generate(**single, max_new_tokens=6)
        assert handle.report.tokens_after == 6
        looked = model.generate(**single, max_new_tokens=6, prompt_lookup_num_tokens=3)
        assert model.generate(**single, max_new_tokens=4, num_beams=3).shape[0] == 1
    with attach(model, method="visionzip", keep=6):
        stock = model.generate(**single, max_new_tokens=6)
    assert torch.equal(batch[0, -6:], greedy[0, -6:])
    assert torch.equal(looked, greedy)
    assert not torch.equal(stock, greedy)


@METHODS
def test_a_row_of_a_batch_is_the_prompt_alone(config):
    family = FAMILIES["qwen2_5_vl"]
    tokens, scores = scored("qwen2_5_vl", config, family.prompts("tit", "ttttt"))
    alone, theirs = scored("qwen2_5_vl", config, family.prompts("tit"))
    assert torch.equal(alone[0], tokens[0])
    assert close(scores[:1], theirs)


@METHODS
def test_text_has_no_second_branch(config):
    family = FAMILIES["llava"]
    tokens, _ = scored("llava", config, family.prompts("tt", "t"))
    assert torch.equal(
        tokens, plain(family.model(), family.prompts("tt", "t"), max_new_tokens=4)[0]
    )


@METHODS
def test_rotary_state_is_that_of_the_real_answer(config):
    family = FAMILIES["qwen2_5_vl"]
    model, inputs = family.model(), family.prompts("tit", "ttitti")
    plain(model, inputs)
    expected = model.base_model.rope_deltas.clone()
    scored("qwen2_5_vl", config, inputs)
    assert torch.equal(model.base_model.rope_deltas, expected)


def test_gamma_one_has_no_second_branch():
    inputs = FAMILIES["llava"].prompts("tit")
    one = {"method": "pai", "options": ACTIVE["pai"]}
    tokens, scores = scored("llava", one, inputs)
    assert scores[..., :89].isfinite()[..., 3:].all()
    other, _ = scored("llava", {"method": "pai", "options": {**ACTIVE["pai"], "gamma": 1}}, inputs)
    assert torch.equal(tokens, other)


@METHODS
def test_later_turns(config):
    """Text is rebuilt from the whole conversation; a noised image would be needed again."""
    family = FAMILIES["llava"]
    model, first = family.model(), family.prompts("tit")
    cache = DynamicCache(config=model.config.get_text_config())
    with Reweighting(model, config):
        said = model.generate(**first, past_key_values=cache, max_new_tokens=3)
        ids = torch.cat([said, family.prompts("t", seed=5)["input_ids"][:, 1:]], 1)
        call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}
        if config is VCD:
            with pytest.raises(ValueError, match="vcd.*columns of past_key_values; pass the whole"):
                model.generate(**call, max_new_tokens=2)
            return
        short = {**call, "input_ids": ids[:, said.shape[1] - 1 :]}
        with pytest.raises(ValueError, match="pai.*columns of past_key_values; pass the whole"):
            model.generate(**short, max_new_tokens=2)
        out = model.generate(
            **call,
            max_new_tokens=1,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
    image = out.logits[0].clone()
    image[:, SPECIAL] = -torch.inf
    image, other = (
        image.log_softmax(-1),
        text_logits("llava", call, ids[:, :0])[:, 0].log_softmax(-1),
    )
    mixed = PAI["options"]["gamma"] * (image - other) + other
    seen = out.scores[0].isfinite()
    assert far(out.scores[0][seen], mixed[seen]) < 1e-5


@METHODS
def test_steps_neither_read_nor_write_what_the_model_remembers_of_positions(config):
    """It is of the model's last call, which may be another thread's."""
    family = FAMILIES["qwen2_5_vl"]
    model, inputs, seen = family.model(), family.prompts("tit", "ttitti"), []
    expected, _ = scored("qwen2_5_vl", config, inputs)

    def another_call(ids: Tensor, scores: Tensor) -> Tensor:
        model.base_model.rope_deltas = torch.tensor([[-3]])
        return scores

    def look(*_) -> None:
        seen.append(model.base_model.rope_deltas.tolist())

    hook = model.get_decoder().register_forward_pre_hook(look)
    found, _ = scored("qwen2_5_vl", config, inputs, logits_processor=[another_call])
    hook.remove()
    assert torch.equal(found, expected)
    # The prompts of both branches, and three steps of each.
    assert len(seen) == 8
    assert seen[2:] == [[[-3]]] * 6


@pytest.mark.parametrize("name", sorted({"idefics3", "smolvlm"} & set(GENERIC)))
def test_images_that_only_fill_up_a_row_stay_blank(name):
    """Models find them by that; a prompt's images are noised one by one."""
    generic = GENERIC[name]
    model, batch, alone = generic.model(), generic.prompts("tit", "ttiti"), generic.prompts("tit")
    alone["pixel_values"] = batch["pixel_values"][:1, :1]
    settings = {"max_new_tokens": 3, "output_scores": True, "return_dict_in_generate": True}
    with Reweighting(model, VCD):
        both, one = (model.generate(**inputs, **settings) for inputs in (batch, alone))
    stock = model.generate(**batch, **settings)
    for ours, theirs in zip(both.scores, one.scores, strict=True):
        assert close(ours[:1], theirs)
    assert not close(both.scores[0], stock.scores[0])


def test_noise_of_an_image_is_that_of_the_image_alone():
    pixels = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels[0, 1:] = 0
    found = with_noise({"pixel_values": pixels}, lambda one: noised(one, 900, seeded()))
    for row, number in ((0, 0), (1, 0), (1, 1), (1, 2)):
        wanted = noised(pixels[row, number], 900, seeded())
        assert torch.equal(found["pixel_values"][row, number], wanted)
    assert not found["pixel_values"][0, 1:].any()


def seeded() -> torch.Generator:
    """The same noise each time."""
    return torch.Generator().manual_seed(7)
