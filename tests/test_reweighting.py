"""Reweighting equals full attention matrices that are edited row by row, on every family."""

import pytest
import torch
from family_oracle import full_positions
from reweight_oracle import Oracle, observed_first, sequential_logits
from tiny_families import FAMILIES as ALL_FAMILIES
from tiny_families import IMAGE, LINEAR, QWEN3, of_qwen
from torch import Tensor

from lvlm_prune.decoder_call import coming_marks
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.llm_sinks import SinkRule
from lvlm_prune.reweight.engine import Reweighting
from lvlm_prune.reweight.registry import REWEIGHTERS

# Every fourth layer attends: two do, so that a method can observe one and edit the other.
DEEP = of_qwen("Qwen3_5", QWEN3, {**LINEAR, "num_hidden_layers": 8}, masks=False)
FAMILIES = ALL_FAMILIES | {"qwen3_5": DEEP}
RATIO = 1.02
RULE = SinkRule(ratio=RATIO, first_layer=0)
# Options under which tiny random models are changed by each method, in every pass.
ACTIVE = {
    "var": {"rho": 0.0, "summ": 0.0},
    "pai": {"alpha": 0.3},
    "paint": {},
    "headguide": {},
    "gift": {},
    "ilvad": {"tau": 1.0, "tokens": 4},
    "vhr": {},
    "restore": {"decode": True, "distance": True},
}
ZERO = {
    "var": {"move": 0.0},
    "pai": {"alpha": 0.0},
    "paint": {"alpha": 0.0, "beta": 0.0},
    "headguide": {"alpha": 0.0},
    "gift": {"alpha": 0.0},
    "ilvad": {"alpha": 0.0},
    "vhr": {"strength": 0.0},
    "restore": {"strength": 0.0},
}
# Options that name layers that attend.
LAYERS = {("qwen3_5", "gift"): {"saliency": 12, "first": 28, "last": 31}}
LAYOUTS = {"single": ("tit",), "padded 0/1/2": ("tt", "ttitt", "titi")}
STEPS = 3
ALL = pytest.mark.parametrize("method", ACTIVE)
EVERY_FAMILY = pytest.mark.parametrize("name", FAMILIES)


def marks_of(method: str, inputs: dict) -> dict[str, Tensor]:
    """What the vision encoder would say of each column, from a seed for each prompt."""
    wanted = {"paint": ("local", "summary"), "restore": ("size", "position")}.get(method, ())
    ids, found = inputs["input_ids"], {}
    for number, name in enumerate(wanted):
        values = torch.zeros(ids.shape)
        for row in range(len(ids)):
            own = torch.Generator().manual_seed(number)
            image = ids[row] == IMAGE
            values[row, image] = torch.randint(0, 4, (int(image.sum()),), generator=own).float()
            if name == "position":
                values[row] = inputs["attention_mask"][row].cumsum(0).float()
        found[name] = values if name in ("size", "position") else (values > 1).float()
    if method == "paint":
        found["summary"] = found["summary"] * (1 - found["local"])
    return found


def options_of(name: str, method: str) -> dict:
    """What a method is told for a family."""
    return ACTIVE[method] | LAYERS.get((name, method), {})


def generated(
    name: str, method: str, inputs: dict, options=None, model=None, rule=RULE, **settings
):
    """Tokens and logits of a reweighted `generate`, `[B, n]` and `[B, n, V]`."""
    model = FAMILIES[name].model() if model is None else model
    options = options_of(name, method) if options is None else options
    with Reweighting(model, {"method": method, "options": options}, rule):
        coming_marks.set(marks_of(method, inputs) or None)
        return plain(model, inputs, **settings)


def plain(model, inputs: dict, **settings):
    """Tokens and logits of `generate`."""
    settings = {"max_new_tokens": STEPS, **settings}
    out = model.generate(**inputs, return_dict_in_generate=True, output_logits=True, **settings)
    new = out.sequences[:, -len(out.logits) :]
    return new, torch.stack(out.logits, 1)


def expected(name: str, method: str, inputs: dict, answer: Tensor, stop=None, **more) -> Tensor:
    """Logits of the oracle before each token of an answer."""
    model = FAMILIES[name].model("eager")
    reweighter = REWEIGHTERS[method]
    options = reweighter.complete(options_of(name, method))
    oracle = Oracle(model, reweighter, options, RATIO, **more)
    if reweighter.pre_run:
        marks = observed_first(model, reweighter, options, inputs, stop)
        return sequential_logits(oracle, inputs, answer[:, :-1], marks)
    return oracle.logits(inputs, answer[:, :-1], marks_of(method, inputs))


def far(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference."""
    return float((ours - theirs).abs().max())


@ALL
@EVERY_FAMILY
@pytest.mark.parametrize("layouts", LAYOUTS.values(), ids=LAYOUTS)
def test_logits_equal_the_oracle(name, method, layouts):
    family = FAMILIES[name]
    inputs = family.prompts(*layouts)
    tokens, logits = generated(name, method, inputs)
    theirs = expected(name, method, inputs, tokens)
    assert far(logits, theirs) < family.tolerance
    # Each step is changed by the method.
    images = [row for row, layout in enumerate(layouts) if "i" in layout]
    stock = Oracle(family.model("eager"), REWEIGHTERS["vcd"], {}).logits(inputs, tokens[:, :-1])
    first = 1 if method == "vhr" else 0
    assert ((theirs - stock)[images, first:].abs().amax(dim=(0, 2)) > 1e-3).all()


@ALL
def test_eager_attention_equals_the_oracle_too(method):
    inputs = FAMILIES["qwen2_5_vl"].prompts("tt", "ttitt", "titi")
    model = FAMILIES["qwen2_5_vl"].model("eager")
    tokens, logits = generated("qwen2_5_vl", method, inputs, model=model)
    assert far(logits, expected("qwen2_5_vl", method, inputs, tokens)) < 1e-5


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, "var") for name in FAMILIES] + [("qwen2_5_vl", method) for method in ACTIVE],
)
def test_strength_zero_is_the_identity(name, method):
    family = FAMILIES[name]
    inputs = family.prompts("tt", "ttitt", "titi")
    options = options_of(name, method) | ZERO[method]
    tokens, logits = generated(name, method, inputs, options)
    stock_tokens, stock = plain(family.model(), inputs)
    assert torch.equal(tokens, stock_tokens)
    assert far(logits, stock) < family.tolerance


@ALL
def test_text_stays_bit_for_bit(method):
    for name in ("llava", "qwen3_5"):
        inputs = FAMILIES[name].prompts("tt", "ttt")
        tokens, logits = generated(name, method, inputs)
        stock_tokens, stock = plain(FAMILIES[name].model(), inputs)
        assert torch.equal(tokens, stock_tokens)
        assert torch.equal(logits, stock)


@ALL
def test_masks_and_padding_do_not_matter(method):
    """No mask, ones, bool and float masks, padding on either side: the same row."""
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.prompts("titt")
    count = inputs["input_ids"].shape[1]
    causal = torch.ones(count, count).tril().bool()[None, None]
    least = torch.finfo(torch.float32).min
    masks = {
        "none": None,
        "ones": torch.ones(1, count).long(),
        "bool": causal,
        "float": torch.zeros(causal.shape).masked_fill(~causal, least),
    }
    found = {}
    options = ACTIVE[method]
    with Reweighting(model, {"method": method, "options": options}, RULE), torch.no_grad():
        for label, mask in masks.items():
            coming_marks.set(marks_of(method, inputs) or None)
            found[label] = model(**{**inputs, "attention_mask": mask}).logits[0]
        for side in ("left", "right"):
            batch = family.prompts("titt", "ttttttttttttt", padding=side)
            coming_marks.set(marks_of(method, batch) or None)
            real = batch["attention_mask"][0] != 0
            found[side] = model(**batch).logits[0][real]
    for logits in found.values():
        assert far(logits, found["ones"]) < 1e-5


@torch.no_grad()
def test_masks_by_kind_of_layer():
    family = FAMILIES["qwen2_5_vl"]
    model, inputs = family.model(), family.prompts("titt")
    inputs["position_ids"] = full_positions(model, inputs)
    count = inputs["input_ids"].shape[1]
    causal = torch.ones(count, count).tril().bool()[None, None]
    with Reweighting(model, {"method": "var", "options": ACTIVE["var"]}, RULE):
        expected = model(**inputs).logits
        by_kind = model(**{**inputs, "attention_mask": {"full_attention": causal}}).logits
    assert far(by_kind, expected) < 1e-5
    assert far(by_kind, model(**inputs).logits) > 1e-3


@pytest.mark.parametrize("method", ["gift", "headguide", "var"])
def test_layers_that_do_not_attend_are_refused(method):
    model = ALL_FAMILIES["qwen3_5"].model()
    with pytest.raises(UnsupportedModelError, match=f"{method}.*layers .* only \\[3\\].* attend"):
        Reweighting(model, method)
    assert "generate" not in model.__dict__
