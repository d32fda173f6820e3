"""Layer stages under every way of generating, over several turns, and beside other attachments."""

import copy
from threading import Thread

import pytest
import torch
from family_oracle import full_positions
from layer_oracle import (
    continued,
    dropped_columns,
    greedy_of,
    hidden_logits,
    hiding,
    visual_columns,
)
from test_families import visual as visual_tensors
from test_family_conversations import Conversation, empty_cache
from test_family_generation import CHUNKS_WITH_IMAGES
from test_layer_stage import fastv_by_hand
from tiny_families import FAMILIES, IMAGE
from transformers import TextStreamer, set_seed

from lvlm_prune.layers.stage import LayerStage

NEW = 5
LOGITS = {"return_dict_in_generate": True, "output_logits": True}
SCHEDULE = {"method": "fastv", "stages": {2: 3}}
SUPPORTED = [name for name, family in FAMILIES.items() if family.masks]
MODES = {
    "beams": {"num_beams": 3},
    "beams, several returned": {"num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_k": 20},
    "several samples": {"do_sample": True, "num_return_sequences": 2},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "length limits": {"max_length": 60, "min_length": 58, "max_new_tokens": None},
}
# Before 5.23 transformers mixes up the images of a prompt with several for its copies.
LAYOUTS = {"single": ("ttit",), "padded": ("tt", "tit", "ttti")}
CASES = [
    pytest.param(name, layouts, mode, id=f"{name}-{label}-{mode}")
    for name in SUPPORTED
    for label, layouts in LAYOUTS.items()
    for mode in MODES
    if mode != "prompt lookup" or label == "single"
]


@pytest.mark.parametrize(("name", "layouts", "mode"), CASES)
def test_mode_equals_the_model_with_hidden_keys(name, layouts, mode):
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts(*layouts)
    settings = {"max_new_tokens": NEW, **MODES[mode]}
    if mode == "length limits":
        length = inputs["input_ids"].shape[1]
        settings |= {"max_length": length + 3, "min_length": length + 2}
    with LayerStage(model, SCHEDULE) as stage:
        set_seed(0)
        ours = model.generate(**inputs, **settings)
        kept = stage.report.kept
    settings.pop("prompt_lookup_num_tokens", None)  # ours speculates, the reference need not
    # Beams and samples are prompts of their own.
    visual = visual_columns(inputs)
    visual = visual.repeat_interleave(len(kept[2]) // len(visual), 0)
    with hiding(model, dropped_columns(visual, kept)):
        set_seed(0)
        assert torch.equal(ours, model.generate(**inputs, **settings))


@pytest.mark.parametrize("method", ["fastv", "transprune"])
@pytest.mark.parametrize("name", SUPPORTED)
def test_speculation_sees_the_prompt_alone(name, method):
    """The pass with the images holds guessed tokens too, which choose nothing."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("titit")
    assistant = copy.deepcopy(model)
    with LayerStage(model, {**SCHEDULE, "method": method}) as stage:
        greedy = model.generate(**inputs, max_new_tokens=6)
        expected = stage.report
        assisted = model.generate(**inputs, max_new_tokens=6, assistant_model=assistant)
    assert torch.equal(assisted, greedy)
    assert torch.equal(stage.report.kept[2][0], expected.kept[2][0])
    assert stage.report.text == expected.text


@pytest.mark.parametrize("name", SUPPORTED)
@torch.no_grad()
def test_generation_without_a_cache(name):
    """Every pass of `generate` makes the same choice: causality leaves the prompt as it was."""
    family = FAMILIES[name]
    model, inputs = family.model(), family.prompts("tt", "titit")
    with LayerStage(model, SCHEDULE) as stage:
        cached, expected = model.generate(**inputs, **LOGITS, max_new_tokens=4), stage.report
        ours = model.generate(**inputs, **LOGITS, max_new_tokens=4, use_cache=False)
    assert torch.equal(ours.sequences, cached.sequences)
    assert stage.report.tokens == expected.tokens
    assert stage.report.text == expected.text
    for one, other in zip(ours.logits, cached.logits, strict=True):
        assert (one - other).abs().max() < 1e-5


@torch.no_grad()
def test_calls_without_a_cache_decide_anew():
    """Outside of `generate` nothing tells an answer from a prompt: the last token chooses."""
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("titit")
    choices = set()
    for token in range(10, 16):
        call = continued(model, inputs, torch.tensor([[token]]))
        with LayerStage(model, SCHEDULE) as stage:
            ours = model(**call, use_cache=False).logits[:, -1]
        choices.add(tuple(stage.report.kept[2][0].tolist()))
        dropped = dropped_columns(visual_columns(call), stage.report.kept)
        with hiding(model, dropped):
            assert (model(**call, use_cache=False).logits[:, -1] - ours).abs().max() < 1e-5
    assert len(choices) > 1


@pytest.mark.skipif(not CHUNKS_WITH_IMAGES, reason="transformers chunks images from 5.23 on")
def test_prompts_in_chunks():
    family = FAMILIES["llava"]
    model, inputs, text = family.model(), family.prompts("tit"), family.prompts("tttt")
    plain = model.generate(**text, max_new_tokens=NEW)
    with LayerStage(model, SCHEDULE):
        with pytest.raises(ValueError, match="comes in chunks.*leave out prefill_chunk_size"):
            model.generate(**inputs, max_new_tokens=NEW, prefill_chunk_size=5)
        whole = model.generate(**inputs, max_new_tokens=NEW)
        one = model.generate(**inputs, max_new_tokens=NEW, prefill_chunk_size=500)
        assert torch.equal(one, whole)
        chunked = model.generate(**text, max_new_tokens=NEW, prefill_chunk_size=5)
    assert torch.equal(chunked, plain)


@torch.no_grad()
def test_guessed_placeholders_are_text():
    """Speculation may guess tokens of the prompt, placeholders too; they bring no features."""
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit")
    guessed = torch.tensor([[5, IMAGE, IMAGE, IMAGE, IMAGE, 7]])
    with LayerStage(model, SCHEDULE) as stage:
        cache = model(**inputs).past_key_values
        before, report = [layer.keys.shape[2] for layer in cache.layers], stage.report
        model(input_ids=guessed, past_key_values=cache)
        assert [layer.keys.shape[2] for layer in cache.layers] == [n + 6 for n in before]
        assert stage.report is report


class Tokens(TextStreamer):
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.seen = []

    def put(self, value):
        self.seen += value.flatten().tolist()

    def end(self):
        self.seen.append("end")


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_streamers_and_inference_mode(name):
    family = FAMILIES[name]
    model, inputs, streamer = family.model(), family.prompts("tit"), Tokens()
    with LayerStage(model, SCHEDULE):
        expected = model.generate(**inputs, max_new_tokens=4)
        with torch.inference_mode():
            ours = model.generate(**inputs, max_new_tokens=4, streamer=streamer)
    assert torch.equal(ours, expected)
    assert streamer.seen == [*expected[0].tolist(), "end"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl_moe"])
@torch.no_grad()
def test_bfloat16(name, attention):
    family = FAMILIES[name]
    model = copy.deepcopy(family.model(attention)).bfloat16()
    inputs = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in family.prompts("tit", "ttitti", "t").items()
    }
    with LayerStage(model, SCHEDULE) as stage:
        out = model.generate(**inputs, **LOGITS, max_new_tokens=3)
        kept = stage.report.kept
    dropped = dropped_columns(visual_columns(inputs), kept)
    tokens = out.sequences[:, inputs["input_ids"].shape[1] :]
    expected = hidden_logits(model, inputs, tokens, dropped).float()
    error = (torch.stack(out.logits, 1).float() - expected).abs().max()
    assert error < 0.05 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_compiled_model(name):
    family = FAMILIES[name]
    model, inputs = copy.deepcopy(family.model()), family.prompts("tit", "ttiti")
    with LayerStage(model, SCHEDULE):
        expected = model(**inputs).logits
        assert (
            torch.compile(model, backend="eager")(**inputs).logits - expected
        ).abs().max() < 1e-5


TURNS = {
    "text second": [("titi",), ("tt",)],
    "image second": [("tit",), ("titi",), ("t",)],
    "padded": [("tit", "ttitit", "tt"), ("t", "titi", "it"), ("t", "tt", "it")],
}


def whole(talk: Conversation) -> dict:
    """The conversation so far as one prompt."""
    call = talk.typed({"input_ids": talk.ids, "attention_mask": talk.mask})
    order = sorted(place for turn in range(talk.said) for place in talk.places(turn))
    for modality, _, turn, number in order:
        for name, value in visual_tensors(talk.prompts[turn], modality, number, number + 1).items():
            call.setdefault(name, []).append(value)
    return {
        name: torch.cat(value) if isinstance(value, list) else value for name, value in call.items()
    }


TWO_STAGES = {"method": "pyramiddrop", "stages": {1: 4, 2: 2}}


def answered(model, talk, cache, schedule, full=True):
    """Answer the next turn; also the columns of the conversation that it kept, by layer and row."""
    past, call = cache.get_seq_length(), talk.next_turn(full)
    if talk.family.mrope:  # transformers places later images only in a whole conversation
        positions = full_positions(model, whole(talk))
        call["position_ids"] = positions[..., -call["input_ids"].shape[1] :]
    with LayerStage(model, schedule) as stage:
        out = model.generate(**call, **LOGITS, past_key_values=cache, max_new_tokens=NEW)
    if not talk.places(talk.said - 1):
        return out, {}
    return out, {
        layer: [(columns + past).tolist() for columns in rows]
        for layer, rows in stage.report.kept.items()
    }


@pytest.mark.parametrize("turns", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize(
    ("name", "schedule", "full"),
    [(name, SCHEDULE, bool(number % 2)) for number, name in enumerate(SUPPORTED)]
    + [
        (name, TWO_STAGES, full)
        for full in (True, False)
        for name in ("llava", "qwen2_5_vl", "internvl")
    ],
)
def test_turns_equal_the_model_with_hidden_keys(name, schedule, full, turns):
    model = FAMILIES[name].model()
    talk, cache = Conversation(FAMILIES[name], turns), empty_cache(model)
    kept = {layer: [[] for _ in turns[0]] for layer in schedule["stages"]}
    for turn in range(len(turns)):
        out, found = answered(model, talk, cache, schedule, full)
        for layer, rows in found.items():
            kept[layer] = [old + new for old, new in zip(kept[layer], rows, strict=True)]
        tokens, inputs = out.sequences[:, -NEW:], whole(talk)
        columns = {
            layer: [torch.tensor(row, dtype=torch.long) for row in rows]
            for layer, rows in kept.items()
        }
        dropped = dropped_columns(visual_columns(inputs), columns)
        logits = hidden_logits(model, inputs, tokens, dropped)
        assert (torch.stack(out.logits, 1) - logits).abs().max() < 2e-5, f"turn {turn}"
        assert torch.equal(tokens, greedy_of(logits))
        talk.add(tokens)


@pytest.mark.parametrize(
    "turns", [[("tit",), ("titit",)], [("tit", "titit", "tt"), ("t", "titit", "it")]], ids=len
)
def test_later_turns_are_ranked_by_the_whole_conversation(turns):
    """The last row's attention over everything that is cached, and over the new images alone."""
    family = FAMILIES["llava"]
    model, schedule = family.model("eager"), {**SCHEDULE, "sinks": "rank"}
    talk, cache = Conversation(family, turns), empty_cache(model)
    for _ in range(2):
        past = cache.get_seq_length()
        out, kept = answered(model, talk, cache, schedule)
        with torch.no_grad():
            expected = fastv_by_hand(model, whole(talk), 2, 3)
        assert kept[2] == [[one for one in row if one >= past] for row in expected]
        talk.add(out.sequences[:, -NEW:])


@torch.no_grad()
def test_a_cache_that_is_cut_into_its_prompt():
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit")
    with LayerStage(model, SCHEDULE):
        cache = model(**inputs).past_key_values
        cache.crop(-6)
        with pytest.raises(ValueError, match="start with a new cache"):
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)


def test_two_threads_at_once():
    family = FAMILIES["llava"]
    model = family.model()
    prompts = [family.prompts("tit", seed=1), family.prompts("titit", "ti", seed=2)]
    with LayerStage(model, SCHEDULE) as stage:
        expected = [model.generate(**inputs, max_new_tokens=12) for inputs in prompts]
        found, texts = [None, None], [None, None]

        def answer(number):
            for _ in range(3):
                found[number] = model.generate(**prompts[number], max_new_tokens=12)
            texts[number] = stage.report.tokens

        threads = [Thread(target=answer, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [len(tokens) for tokens in texts] == [1, 2]
