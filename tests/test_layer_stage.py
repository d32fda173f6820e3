"""Stages inside the LLM: the unpruned model with the dropped keys hidden from the stage's layer on.

Kept columns are read from the report; everything else of the reference is independent.
"""

import copy

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
from test_families import alone
from test_family_generation import training_labels
from tiny_families import FAMILIES, IMAGE, QWEN3, VIDEO, of_qwen

from lvlm_prune.errors import NoReportError
from lvlm_prune.layers.schedule import LayerSchedule
from lvlm_prune.layers.stage import LayerStage
from lvlm_prune.llm_sinks import SinkRule

NEW = 5
LAYOUTS = {
    "single": ("titit",),
    "padded 0/1/2": ("ttt", "tit", "titti"),
    "image last": ("tti",),
}
VIDEOS = {"videos": ("tvt", "tivtvit", "t")}
STAGES = {"share": {2: 0.25}, "two stages": {1: 3, 2: 1}}
SUPPORTED = [name for name, family in FAMILIES.items() if family.masks]


def cases():
    for number, name in enumerate(SUPPORTED):
        family = FAMILIES[name]
        for label, layouts in (LAYOUTS | (VIDEOS if family.video else {})).items():
            for kind, stages in STAGES.items():
                if "qwen3" in name and min(stages) < 2:  # DeepStack
                    continue
                attention = "eager" if (len(label) + len(kind) + number) % 2 else "sdpa"
                yield pytest.param(
                    name, layouts, stages, attention, id=f"{name}-{label}-{kind}-{attention}"
                )


CASES = list(cases())
DEEP = of_qwen("Qwen3VL", QWEN3, {"num_hidden_layers": 5})


def generated(model, inputs, schedule, **settings):
    with LayerStage(model, schedule) as stage:
        out = model.generate(
            **inputs,
            **{"max_new_tokens": NEW, **settings},
            return_dict_in_generate=True,
            output_logits=True,
        )
        return out, stage.report


def check(model, inputs, schedule, tolerance=1e-5, **settings):
    out, report = generated(model, inputs, schedule, **settings)
    length = inputs["input_ids"].shape[1]
    tokens, logits = out.sequences[:, length:], torch.stack(out.logits, 1)
    dropped = dropped_columns(visual_columns(inputs), report.kept)
    expected = hidden_logits(model, inputs, tokens, dropped)
    assert (logits - expected).abs().max() < tolerance
    assert torch.equal(tokens, greedy_of(expected))
    return out, report


@pytest.mark.parametrize(("name", "layouts", "stages", "attention"), CASES)
def test_equals_the_model_with_hidden_keys(name, layouts, stages, attention):
    family = FAMILIES[name]
    check(family.model(attention), family.prompts(*layouts), LayerSchedule("fastv", stages))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", SUPPORTED)
@torch.no_grad()
def test_right_padding_and_steps_by_hand(name, attention):
    """Logits of every real column that no stage dropped, and of steps that pass no positions."""
    family = FAMILIES[name]
    model, inputs = family.model(attention), family.prompts("tt", "tit", "ttiti", padding="right")
    tokens = torch.randint(3, 50, (3, 4), generator=torch.Generator().manual_seed(0))
    real = inputs["attention_mask"] != 0
    with LayerStage(model, {"method": "fastv", "stages": {2: 5}}) as stage:
        out = model(**inputs)
        kept, logits = stage.report.kept, [out.logits]
        mask, places = inputs["attention_mask"], full_positions(model, inputs)[..., -1:]
        for column in tokens.split(1, dim=1):
            mask, places = torch.cat([mask, torch.ones_like(column)], 1), places + 1
            call = {"attention_mask": mask, "past_key_values": out.past_key_values}
            out = model(input_ids=column, position_ids=places, **call)
            logits.append(out.logits)
    dropped = dropped_columns(visual_columns(inputs), kept)
    with hiding(model, dropped):
        expected = model(**continued(model, inputs, tokens), use_cache=False).logits
    stays = torch.cat([real & ~dropped[2], torch.ones_like(tokens).bool()], 1)
    assert (torch.cat(logits, 1) - expected)[stays].abs().max() < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "stages", [{2: 3}, {3: 3}, {4: 3}, {2: 0.5, 4: 1}, {2: 0, 4: 0.5}], ids=str
)
def test_every_layer_above_deepstack(stages, attention):
    inputs = DEEP.prompts("tt", "tit", "titivt")
    check(DEEP.model(attention), inputs, LayerSchedule("fastv", stages))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
@torch.no_grad()
def test_calls_without_a_mask(name, attention):
    """Without padding there may be no mask at all; what else a call asks for comes too."""
    family = FAMILIES[name]
    model, inputs = family.model(attention), family.prompts("titit")
    plain = {key: value for key, value in inputs.items() if key != "attention_mask"}
    with LayerStage(model, {"stages": {2: 3}}) as stage:
        out = model(**plain, output_hidden_states=True, logits_to_keep=3)
        dropped = dropped_columns(visual_columns(inputs), stage.report.kept)
    with hiding(model, dropped):
        expected = model(**inputs, use_cache=False).logits[:, -3:]
    assert (out.logits - expected).abs().max() < 1e-5
    assert out.hidden_states[-1].shape[:2] == inputs["input_ids"].shape


@pytest.mark.parametrize(
    ("keep", "left"),
    [(4, [4, 8, 4, 4]), (0.25, [4, 8, 4, 4]), (0, [0, 1, 1, 1]), (1, [1, 2, 1, 1])],
)
@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", "dart"])
@torch.no_grad()
def test_a_last_token_that_is_visual_stays_within_the_budget(method, keep, left):
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("tit", "titi", "ti", "i")
    with LayerStage(model, {"method": method, "stages": {2: keep}}) as stage:
        model(**inputs)
    assert [row[-1] for row in stage.report.tokens] == left
    for columns in stage.report.kept[2][1:]:
        assert int(columns[-1]) == inputs["input_ids"].shape[1] - 1


@torch.no_grad()
def test_dropping_matters():
    """The comparisons above would notice a stage that does nothing."""
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].prompts("titit")
    with LayerStage(model, {"method": "fastv", "stages": {1: 3}}):
        ours = model(**inputs).logits[:, -1]
    assert (ours - model(**inputs).logits[:, -1]).abs().max() > 1e-2


def fastv_by_hand(model, inputs, layer, keep, sinks=None):
    """Columns of each prompt from the attention maps of the unpruned model."""
    call = {**inputs, "position_ids": full_positions(model, inputs)}
    attentions = model(**call, output_attentions=True).attentions[layer - 1]
    kept = []
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        real = [place for place, one in enumerate(inputs["attention_mask"][row].tolist()) if one]
        scores, images = attentions[row, :, real[-1]].double().mean(0).tolist(), [[]]
        for place in real:
            if ids[place] in (IMAGE, VIDEO):
                images[-1].append(place)
            elif images[-1]:
                images.append([])
        found = []
        for image in images:
            rank = sorted(image, key=lambda place: (place in (sinks or ()), -scores[place]))
            found += rank[:keep]
        kept.append(sorted(found))
    return kept


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_kept_tokens_are_those_of_the_attention_map(name, padding, attention):
    family = FAMILIES[name]
    inputs = family.prompts("tt", "tit", "titit", padding=padding)
    expected = fastv_by_hand(family.model("eager"), inputs, 2, 4)
    schedule = LayerSchedule("fastv", {2: 4}, sinks="rank")
    with LayerStage(family.model(attention), schedule) as stage:
        family.model(attention)(**inputs)
    assert [columns.tolist() for columns in stage.report.kept[2]] == expected


@torch.no_grad()
def test_llm_sinks_do_not_eat_the_budget():
    """Tokens that a norm rule marks are kept last."""
    family = FAMILIES["llava"]
    inputs = family.prompts("titit")
    model, rule = family.model("eager"), SinkRule(ratio=1.1)
    states = model(**inputs, output_hidden_states=True).hidden_states[2][0]
    norms, visual = states.norm(dim=-1).tolist(), visual_columns(inputs)[0].tolist()
    own = sorted(norm for norm, seen in zip(norms, visual, strict=True) if seen)
    median = own[(len(own) - 1) // 2]
    sinks = [n for n, seen in enumerate(visual) if seen and norms[n] >= 1.1 * median]
    expected = fastv_by_hand(model, inputs, 2, 4, sinks)
    assert sinks
    assert expected != fastv_by_hand(model, inputs, 2, 4)
    with LayerStage(model, {"stages": {2: 4}}, sink_rule=rule) as stage:
        model(**inputs)
    assert [columns.tolist() for columns in stage.report.kept[2]] == expected


@pytest.mark.parametrize("name", SUPPORTED)
def test_caches_hold_what_their_layer_saw(name):
    family = FAMILIES[name]
    inputs = family.prompts("tit")
    out, report = generated(family.model(), inputs, {"stages": {2: 3}})
    length, visual = inputs["input_ids"].shape[1], int(visual_columns(inputs).sum())
    lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    assert lengths == [length + NEW - 1] * 2 + [length - visual + 3 + NEW - 1]
    assert report.tokens == [[visual, visual, 3]]
    assert report.text == [length - visual]
    assert out.past_key_values.get_seq_length() == length + NEW - 1
    assert out.sequences.shape == (1, length + NEW)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl_moe"])
def test_loss_and_gradients(name):
    family = FAMILIES[name]
    model, inputs = copy.deepcopy(family.model()), family.prompts("tit", "titti")
    labels = training_labels(inputs)
    # What padding predicts means nothing, and layers behind a stage have none.
    labels[:, 1:][inputs["attention_mask"][:, :-1] == 0] = -100
    with LayerStage(model, {"stages": {2: 3}}) as stage:
        out = model(**inputs, labels=labels)
        kept = stage.report.kept
    assert out.logits.shape[:2] == inputs["input_ids"].shape
    out.loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with hiding(model, dropped_columns(visual_columns(inputs), kept)):
        positions = full_positions(model, inputs)
        reference = model(**inputs, position_ids=positions, labels=labels, use_cache=False).loss
        reference.backward()
    assert abs(out.loss - reference) < 1e-5
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            scale = max(1.0, float(parameter.grad.abs().max()))
            assert (ours[name] - parameter.grad).abs().max() < 1e-4 * scale, name


@pytest.mark.parametrize("name", SUPPORTED)
@torch.no_grad()
def test_row_of_a_batch_equals_the_prompt_alone(name):
    family = FAMILIES[name]
    model, layouts = family.model(), ("tt", "tti", "titit")
    batches = {side: family.prompts(*layouts, padding=side) for side in ("left", "right")}
    wide = {name: pad_more(value) for name, value in batches["left"].items()}
    with LayerStage(model, {"stages": {2: 0.3}}):
        rows = [last_logits(model, inputs) for inputs in (*batches.values(), wide)]
        for row, inputs in enumerate(alone(family, layouts)):
            single = last_logits(model, inputs)[0]
            assert all((batch[row] - single).abs().max() < 1e-5 for batch in rows)


def pad_more(value):
    """Seven more columns of padding on the left of every `[B, L]` tensor of ids."""
    front = value.dim() == 2 and not value.is_floating_point() and value.shape[1] > 3
    return torch.nn.functional.pad(value, (7, 0)) if front else value


def last_logits(model, inputs):
    """Logits at each prompt's last real token."""
    columns = torch.arange(inputs["input_ids"].shape[1])
    last = (inputs["attention_mask"] * columns).argmax(1)
    logits = model(**inputs, position_ids=full_positions(model, inputs)).logits
    return logits[torch.arange(len(logits)), last]


@pytest.mark.parametrize("name", SUPPORTED)
@torch.no_grad()
def test_text_and_keep_all_are_bit_identical(name):
    family = FAMILIES[name]
    model = family.model()
    text, images = family.prompts("tt", "t"), family.prompts("titit", "it")
    settings = {"max_new_tokens": 4, "return_dict_in_generate": True, "output_logits": True}
    plain = [model.generate(**inputs, **settings) for inputs in (text, images)]
    with LayerStage(model, {"stages": {2: 1.0}}) as stage:
        with pytest.raises(NoReportError, match="no image has passed"):
            _ = stage.report
        ours = [model.generate(**inputs, **settings) for inputs in (text, images)]
    for one, other in zip(plain, ours, strict=True):
        assert torch.equal(one.sequences, other.sequences)
        assert all(torch.equal(a, b) for a, b in zip(one.logits, other.logits, strict=True))
    assert stage.report.prefill_share == stage.report.decode_share == 1
