"""Every way of generating with reweighting gives what the oracle gives for the same tokens."""

import copy

import pytest
import torch
import transformers
from packaging import version
from reweight_oracle import Oracle, observed_first, sequential_logits
from test_reweighting import ACTIVE, FAMILIES, RATIO, RULE, expected, far, generated, plain
from transformers import DynamicCache, set_seed

from lvlm_prune.llm_sinks import SinkRule
from lvlm_prune.reweight.engine import Reweighting
from lvlm_prune.reweight.registry import REWEIGHTERS

CHUNKS_WITH_IMAGES = version.parse(transformers.__version__) >= version.parse("5.23")
MODES = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "chunks": {"prefill_chunk_size": 5},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}
ALL = pytest.mark.parametrize("method", ACTIVE)
# Those whose marks need a row of `generate`'s own, and one of each kind.
SOME = pytest.mark.parametrize("method", ["var", "pai", "gift", "ilvad"])


def repeated(inputs: dict, times: int) -> dict:
    """Every prompt with its copies, pixels included."""
    if times == 1:
        return inputs
    assert len(inputs["input_ids"]) == 1
    return {name: torch.cat([value] * times) for name, value in inputs.items()}


@ALL
@pytest.mark.parametrize("mode", MODES)
def test_modes_equal_plain_generation(method, mode):
    """Whatever passes the prompt and the answer come in, the same rows are edited."""
    if mode == "chunks" and not CHUNKS_WITH_IMAGES:
        pytest.skip("transformers cuts encoded images into chunks from 5.23 on")
    layouts = ("titit",) if mode == "prompt lookup" else ("tt", "ttitt", "titi")
    name = "qwen2_5_vl" if method in ("var", "gift") else "llava"
    inputs = FAMILIES[name].prompts(*layouts)
    if method == "ilvad" and mode in ("no cache", "prompt lookup"):
        with pytest.raises(ValueError, match="pass of its own.*leave out"):
            generated(name, method, inputs, **MODES[mode])
        return
    if method == "gift" and mode == "chunks":
        with pytest.raises(ValueError, match="successive tokens.*prefill_chunk_size"):
            generated(name, method, inputs, **MODES[mode])
        return
    rule = SinkRule(dims=(0, 1, 2), tau=1.3, first_layer=0) if mode == "chunks" else RULE
    tokens, logits = generated(name, method, inputs, rule=rule, max_new_tokens=5)
    ours, found = generated(name, method, inputs, rule=rule, max_new_tokens=5, **MODES[mode])
    assert torch.equal(ours, tokens)
    assert far(found, logits) < 1e-5
    assert far(found, plain(FAMILIES[name].model(), inputs, max_new_tokens=5)[1]) > 1e-3


@pytest.mark.skipif(not CHUNKS_WITH_IMAGES, reason="see above")
@pytest.mark.parametrize("size", [4, 20])
def test_norms_are_not_compared_across_chunks(size):
    """A median needs the whole prompt; phi is each token's own, and text has nothing to find."""
    text = FAMILIES["llava"].prompts("ttt", "ttttt")
    with pytest.raises(ValueError, match="var.*median norm.*leave it out, or pass a sink rule"):
        generated("llava", "var", FAMILIES["llava"].prompts("titt"), prefill_chunk_size=size)
    tokens = generated("llava", "var", text, prefill_chunk_size=size)[0]
    assert torch.equal(tokens, plain(FAMILIES["llava"].model(), text)[0])


@pytest.mark.parametrize("negative", [None, 3, 40])
@pytest.mark.parametrize(
    ("method", "cached"), [("ilvad", True), ("var", True), ("pai", True), ("pai", False)]
)
def test_passes_of_classifier_free_guidance_are_no_rows_of_the_answer(method, cached, negative):
    """Nor of a first answer, which is the model's own."""
    inputs = FAMILIES["llava"].prompts("titt", "tit")
    settings = {"guidance_scale": 1.7, "use_cache": cached, "max_new_tokens": 4}
    if negative is not None:
        settings["negative_prompt_ids"] = torch.randint(3, 50, (2, negative))
    tokens, logits = generated("llava", method, inputs, **settings)
    assert far(logits, expected("llava", method, inputs, tokens)) < 1e-5
    assert far(logits, plain(FAMILIES["llava"].model(), inputs, **settings)[1]) > 1e-3


@SOME
@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 2, "do_sample": True}])
def test_beams_have_the_oracles_scores(method, settings):
    """Marks of answers follow the beams that move."""
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.prompts("titt")
    set_seed(3)
    with Reweighting(model, {"method": method, "options": ACTIVE[method]}, RULE):
        out = model.generate(
            **inputs,
            **settings,
            max_new_tokens=5,
            num_return_sequences=2,
            return_dict_in_generate=True,
            output_scores=True,
        )
    assert "reorder_cache" not in out.past_key_values.__dict__
    for row, score in zip(out.sequences, out.sequences_scores, strict=True):
        answer = row[None, inputs["input_ids"].shape[1] :]
        chances = expected("llava", method, inputs, answer).log_softmax(-1)
        total = chances.gather(2, answer[..., None]).sum()
        assert abs(total / answer.shape[1] - score) < 1e-4


@SOME
def test_beams_of_a_batch_are_those_of_single_prompts(method):
    family = FAMILIES["llava"]
    model = family.model()
    with Reweighting(model, {"method": method, "options": ACTIVE[method]}, RULE):
        batch = family.prompts("titt", "tt")
        both = model.generate(**batch, num_beams=3, max_new_tokens=4)[:, -4:]
        for row, layout in enumerate(("titt", "tt")):
            alone = model.generate(**family.prompts(layout), num_beams=3, max_new_tokens=4)
            assert torch.equal(alone[0, -4:], both[row])


@SOME
def test_several_samples_equal_the_oracle(method):
    inputs = FAMILIES["llava"].prompts("titt")
    settings = {"do_sample": True, "num_return_sequences": 3, "temperature": 2.0, "top_k": 0}
    set_seed(5)
    tokens, logits = generated("llava", method, inputs, **settings)
    assert len({tuple(row) for row in tokens.tolist()}) == 3
    for row in range(3):
        theirs = expected("llava", method, inputs, tokens[row : row + 1])
        assert far(logits[row : row + 1], theirs) < 1e-5
    set_seed(5)
    assert torch.equal(generated("llava", method, inputs, **settings)[0], tokens)


@pytest.mark.parametrize("step", [0, 1])
def test_a_first_answer_that_ended_is_observed_up_to_there(step):
    """ILVAD: rows behind the end token count in no prompt of the batch."""
    family, inputs = FAMILIES["llava"], FAMILIES["llava"].prompts("ttitt", "tit")
    model, method = family.model(), REWEIGHTERS["ilvad"]
    options = method.complete(ACTIVE["ilvad"])
    stop = int(plain(model, inputs)[0][1, step])
    tokens, logits = generated("llava", "ilvad", inputs, eos_token_id=stop)
    marks = observed_first(family.model("eager"), method, options, inputs, stop)
    whole = observed_first(family.model("eager"), method, options, inputs, None)
    assert far(marks["evidence"][1], whole["evidence"][1]) > 0.1
    oracle = Oracle(family.model("eager"), method, options, RATIO)
    theirs = sequential_logits(oracle, inputs, tokens[:, :-1], marks)
    for row, answer in enumerate(tokens.tolist()):
        count = answer.index(stop) + 1 if stop in answer else len(answer)
        assert far(logits[row, :count], theirs[row, :count]) < 1e-5


@pytest.mark.parametrize("method", [name for name in ACTIVE if name not in ("paint", "restore")])
@torch.no_grad()
def test_hand_written_loop(method):
    """A loop of single tokens equals `generate`; a method with a pre-run edits nothing in it."""
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.prompts("tt", "ttitt", "titi")
    tokens, logits = generated("llava", method, inputs)
    if method == "ilvad":
        tokens, logits = plain(model, inputs)
    steps = []
    with Reweighting(model, {"method": method, "options": ACTIVE[method]}, RULE):
        out, mask = model(**inputs, use_cache=True), inputs["attention_mask"]
        for column in tokens.T:
            steps.append(out.logits[:, -1])
            mask = torch.cat([mask, torch.ones(len(mask), 1).long()], 1)
            out = model(
                input_ids=column[:, None],
                attention_mask=mask,
                past_key_values=out.past_key_values,
            )
    assert far(torch.stack(steps, 1), logits) < 1e-5


@SOME
def test_half_precision_and_inference_mode(method):
    family = FAMILIES["llava"]
    inputs = family.prompts("tt", "ttitt")
    tokens, logits = generated("llava", method, inputs)
    with torch.inference_mode():
        ours, found = generated("llava", method, inputs)
    assert torch.equal(ours, tokens)
    assert torch.equal(found, logits)
    half = copy.deepcopy(family.model()).bfloat16()
    eager = copy.deepcopy(family.model("eager")).bfloat16()
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    fused = generated("llava", method, inputs, model=half, max_new_tokens=1)[1]
    matrix = generated("llava", method, inputs, model=eager, max_new_tokens=1)[1]
    assert fused.isfinite().all()
    # Rounding moves thresholds of ILVAD's map.
    if method != "ilvad":
        assert far(fused, matrix) < 0.05 * float(matrix.abs().max())


class Talk(Oracle):
    """A conversation of one prompt, of which given rows are edited alone."""

    rows: list[int]

    def _edit(self, number, logits, value, output, prompt, gone) -> None:
        for row in self.rows if number in self.edited else ():
            cut, there = self._rows(number, logits, value, prompt, [row], gone)
            weights = self.method.edit(cut, **self.options).weights[0]
            output[:, [row]] = torch.einsum("hrs,hsd->hrd", weights, value[:, there])


# transformers itself finds no positions for a new image behind a cache with M-RoPE.
@pytest.mark.parametrize(("name", "layout"), [("llava", "t"), ("llava", "it"), ("qwen2_5_vl", "t")])
def test_second_turn_on_a_cache(name, layout):
    """Last rows of both prompts and all rows of both answers are edited, with or without image."""
    family = FAMILIES[name]
    model, first = family.model(), family.prompts("tit")
    cache = DynamicCache(config=model.config.get_text_config())
    with Reweighting(model, {"method": "pai", "options": ACTIVE["pai"]}):
        said = model.generate(**first, past_key_values=cache, max_new_tokens=3)
        second = family.prompts(layout, seed=4)
        ids = torch.cat([said, second["input_ids"][:, 1:]], 1)
        whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in first:
            whole["mm_token_type_ids"] = (ids == 90).int()
        new = {name: one for name, one in second.items() if name not in whole}
        tokens, logits = plain(model, {**whole, **new, "past_key_values": cache})
    pixels = {
        name: torch.cat([first[name], new[name]]) if name in new else first[name]
        for name in first
        if name not in whole
    }
    oracle = Talk(family.model("eager"), REWEIGHTERS["pai"], ACTIVE["pai"])
    oracle.options = REWEIGHTERS["pai"].complete(ACTIVE["pai"])
    start, end = first["input_ids"].shape[1], ids.shape[1]
    rows = [start - 1, *range(start, said.shape[1] - 1), end - 1]
    oracle.rows = [*rows, *range(end, end + tokens.shape[1] - 1)]
    theirs = oracle.logits({**whole, **pixels}, tokens[:, :-1])
    assert far(logits, theirs) < 1e-5


@SOME
def test_second_turn_may_repeat_the_conversation_or_not(method):
    family = FAMILIES["qwen2_5_vl"]
    model, first = family.model(), family.prompts("titt")
    found = []
    for repeat in (True, False):
        cache = DynamicCache(config=model.config.get_text_config())
        with Reweighting(model, {"method": method, "options": ACTIVE[method]}, RULE):
            said = model.generate(**first, past_key_values=cache, max_new_tokens=3)
            ids = torch.cat([said, family.prompts("tt")["input_ids"][:, 1:]], 1)
            mask, held = torch.ones_like(ids), said.shape[1] - 1
            given = ids if repeat else ids[:, held:]
            call = {"input_ids": given, "attention_mask": mask, "past_key_values": cache}
            found.append(plain(model, call))
    assert torch.equal(found[0][0], found[1][0])
    assert far(found[0][1], found[1][1]) < 1e-6
