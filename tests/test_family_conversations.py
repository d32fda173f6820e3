"""Conversations with every family: a pruned cache is carried on, by turns and by hand.

The reference answers the whole conversation afresh, with the stock model and the dropped columns of
all turns masked.
"""

import copy

import pytest
import torch
from family_oracle import reference_generate
from test_families import visual
from tiny_families import FAMILIES, IMAGE, PAD, SPECIAL, VIDEO
from transformers import DynamicCache

from lvlm_prune import attach

KEEP = 3
NEW = 4
BATCHES = {
    "single": [("tit",), ("titi",), ("tt",), ("it",)],
    "padded": [("tit", "ttitit", "tt"), ("t", "titi", "it"), ("t", "tt", "t"), ("it", "ti", "t")],
    "text first": [("tt", "t"), ("tit", "ti"), ("t", "t")],
}
VIDEOS = {"videos": [("tvt",), ("tivt",), ("tv",)]}
# Recurrent layers see padding behind a cache, so later turns need none once they are pruned.
EVEN = {
    "single": BATCHES["single"],
    "padded": [("tit", "ttitit", "tt"), ("ti", "ti", "it"), ("tt", "tt", "tt")],
    "videos": VIDEOS["videos"],
}
CASES = [
    pytest.param(name, turns, id=f"{name}-{label}")
    for name, family in FAMILIES.items()
    for label, turns in (
        (BATCHES | (VIDEOS if family.video else {})).items() if family.masks else EVEN.items()
    )
]
# Where each modality's tensors come from, in the order of a report.
PARTS = {"image": "i", "video": "v"}


class Conversation:
    """What was said so far, and which visual tokens are masked in the reference.

    Args:
        family: the family of the model.
        turns: layouts of the rows, for each turn.
    """

    def __init__(self, family, turns) -> None:
        self.family = family
        self.turns = turns
        self.prompts = [family.prompts(*rows, seed=3 + number) for number, rows in enumerate(turns)]
        self.ids = self.prompts[0]["input_ids"][:, :0]
        self.mask = self.ids
        self.kept: dict[tuple, torch.Tensor] = {}
        self.said = 0

    def add(self, tokens: torch.Tensor) -> None:
        """Append tokens that were generated."""
        self.ids = torch.cat([self.ids, tokens], 1)
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], 1)

    def next_turn(self, full: bool) -> dict:
        """The call of the next turn: the whole history, or what is not cached yet."""
        prompt = self.prompts[self.said]
        new = torch.cat([self.ids[:, -1:], prompt["input_ids"]], 1)
        self.ids = torch.cat([self.ids, prompt["input_ids"]], 1)
        self.mask = torch.cat([self.mask, prompt["attention_mask"]], 1)
        call = {**prompt, "input_ids": self.ids if full or not self.said else new}
        call["attention_mask"] = self.mask
        self.said += 1
        return self.typed(call)

    def typed(self, call: dict) -> dict:
        """The same with token types, where the model takes them."""
        if self.family.mrope:
            ids = call["input_ids"]
            call["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
        return call

    def places(self, turn: int) -> list[tuple]:
        """Images, then videos of a turn: modality, row, turn, number."""
        found = []
        for modality, letter in PARTS.items():
            number = 0
            for row, layout in enumerate(self.turns[turn]):
                for _ in range(layout.count(letter)):
                    found.append((modality, row, turn, number))
                    number += 1
        return found

    def remember(self, kept: list[torch.Tensor]) -> None:
        """Note what the last turn kept."""
        self.kept |= dict(zip(self.places(self.said - 1), kept, strict=True))

    def reference(self, model) -> torch.Tensor:
        """New tokens of the stock model for the whole conversation."""
        call = self.typed({"input_ids": self.ids, "attention_mask": self.mask})
        kept, totals = [], []
        order = sorted(place for turn in range(self.said) for place in self.places(turn))
        for modality, _, turn, number in order:
            own = visual(self.prompts[turn], modality, number, number + 1)
            for name, value in own.items():
                call.setdefault(name, []).append(value)
            totals.append(self.total(modality, turn, number))
        kept = [
            self.kept.get(place, torch.arange(total))
            for place, total in zip(order, totals, strict=True)
        ]
        call = {
            name: torch.cat(value) if isinstance(value, list) else value
            for name, value in call.items()
        }
        return reference_generate(model, call, kept, totals, max_new_tokens=NEW)

    def total(self, modality: str, turn: int, number: int) -> int:
        """Placeholders of one image or video, made alone."""
        item = (self.family.image if modality == "image" else self.family.video)(
            self.family.model(), number, torch.Generator().manual_seed(0)
        )
        return sum(token == item.placeholder for token in item.ids)


def answered(model, talk: Conversation, cache, full: bool = True) -> torch.Tensor:
    """Answer the next turn with pruning, `[B, NEW]`."""
    call = talk.next_turn(full)
    with attach(model, method="cls", keep=KEEP) as handle:
        out = model.generate(**call, past_key_values=cache, max_new_tokens=NEW)
        if talk.places(talk.said - 1):
            talk.remember(handle.report.kept)
    assert torch.equal(out[:, :-NEW], call["input_ids"])
    return out[:, -NEW:]


def empty_cache(model) -> DynamicCache:
    """A cache for a conversation."""
    return DynamicCache(config=model.config.get_text_config())


@pytest.mark.parametrize("full", [True, False], ids=["whole history", "new tokens"])
@pytest.mark.parametrize(("name", "turns"), CASES)
@torch.no_grad()
def test_turns_equal_the_masked_model(name, turns, full):
    model = FAMILIES[name].model()
    talk, cache = Conversation(FAMILIES[name], turns), empty_cache(model)
    for turn in range(len(turns)):
        ours = answered(model, talk, cache, full)
        assert torch.equal(ours, talk.reference(model)), f"turn {turn}"
        talk.add(ours)


@pytest.mark.parametrize("full", [True, False], ids=["whole history", "new tokens"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_first_turn_without_pruning(name, full):
    """Attached behind the first turn: its cache holds everything."""
    model = FAMILIES[name].model()
    talk, cache = Conversation(FAMILIES[name], [("tit", "titt"), ("ti", "it")]), empty_cache(model)
    call = talk.next_turn(full)
    talk.add(model.generate(**call, past_key_values=cache, max_new_tokens=NEW)[:, -NEW:])
    assert torch.equal(answered(model, talk, cache, full), talk.reference(model))


@pytest.mark.parametrize("full", [True, False], ids=["whole history", "new tokens"])
@pytest.mark.parametrize("opening", ["ti", "tt"], ids=["image first", "text first"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_two_conversations_in_turns(name, opening, full):
    """What the model remembers of one conversation must not reach the other."""
    model = FAMILIES[name].model()
    turns = {"one": [(opening,), ("ti",)], "two": [("tti", "ti"), ("t", "t")]}
    talks = {key: Conversation(FAMILIES[name], turn) for key, turn in turns.items()}
    caches = {key: empty_cache(model) for key in talks}
    answers = {}
    for _ in range(2):
        for key, talk in talks.items():
            answers[key] = answered(model, talk, caches[key], full)
            if talk.said == 1:
                talk.add(answers[key])
    for key, talk in talks.items():
        assert torch.equal(answers[key], talk.reference(model)), key


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_hand_written_decode_loop(name):
    """Forward with a cache, then single tokens without position_ids, as scripts do."""
    model = FAMILIES[name].model()
    inputs = FAMILIES[name].prompts("tit", "ttitti", "tt")
    with attach(model, method="cls", keep=KEEP):
        expected = model.generate(**inputs, max_new_tokens=NEW)[:, -NEW:]
        out = model(**inputs, use_cache=True)
        mask, tokens = inputs["attention_mask"], []
        for _ in range(NEW):
            logits = out.logits[:, -1].clone()
            logits[:, SPECIAL] = -torch.inf
            tokens.append(logits.argmax(-1, keepdim=True))
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            out = model(
                input_ids=tokens[-1], attention_mask=mask, past_key_values=out.past_key_values
            )
    assert torch.equal(torch.cat(tokens, 1), expected)


@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_5_vl"])
@torch.no_grad()
def test_flash_attention_refuses_gaps_behind_a_cache(name, monkeypatch):
    """Its kernels would take them for packed sequences; M-RoPE has a row without gaps."""
    family = FAMILIES[name]
    model, cache = copy.deepcopy(family.model()), empty_cache(family.model())
    first, second, third = (family.prompts(layout) for layout in ("t", "it", "t"))
    length = first["input_ids"].shape[1] + second["input_ids"].shape[1]
    second["attention_mask"] = torch.ones(1, length).long()
    third["attention_mask"] = torch.ones(1, length + third["input_ids"].shape[1]).long()
    text = model.config.get_text_config()
    with attach(model, method="cls", keep=KEEP) as handle:
        model(**first, past_key_values=cache)
        monkeypatch.setattr(text, "_attn_implementation_internal", "flash_attention_2")
        if family.mrope:
            handle.stage.rewrite({**second, "past_key_values": cache})
            return
        with pytest.raises(ValueError, match="gaps that pruning leaves .* attn_implementation"):
            model(**second, past_key_values=cache)
        monkeypatch.undo()
        model(**second, past_key_values=cache)
        monkeypatch.setattr(text, "_attn_implementation_internal", "flash_attention_2")
        # Text behind a pruned image has no gaps of its own.
        handle.stage.rewrite({**third, "past_key_values": cache})


@torch.no_grad()
def test_recurrent_layers_refuse_padding_behind_a_cache():
    family = FAMILIES["qwen3_5"]
    model = family.model()
    cache = empty_cache(model)
    first, second = family.prompts("tit", "tit"), family.prompts("tit", "ttt")
    ids = second["input_ids"]
    short = int((ids[1] == PAD).sum())
    ids[1] = torch.cat([ids[1, short:], torch.full((short,), 7)])
    second["attention_mask"] = torch.ones(2, first["input_ids"].shape[1] + ids.shape[1]).long()
    with attach(model, method="cls", keep=KEEP):
        model(**first, past_key_values=cache)
        with pytest.raises(ValueError, match="recurrent layers cannot skip padding"):
            model(**second, past_key_values=cache)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.masks])
@torch.no_grad()
def test_a_cache_of_several_samples_is_gone_on_from(name):
    """The rows of a cache repeat the prompt; the next turn passes as many."""
    family = FAMILIES[name]
    model, inputs, cache = family.model(), family.prompts("tit"), empty_cache(family.model())
    sampled = {"num_return_sequences": 2, "do_sample": True, "max_new_tokens": NEW}
    with attach(model, method="cls", keep=KEEP) as handle:
        out = model.generate(**inputs, past_key_values=cache, **sampled)
        ids = torch.cat([out, torch.full((2, 2), 7)], 1)
        call = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        ours = model.generate(**call, past_key_values=cache, max_new_tokens=NEW)[:, -NEW:]
        (kept,) = handle.report.kept
    total = int((inputs["input_ids"] == IMAGE).sum())
    call |= {
        name: torch.cat([value, value]) for name, value in visual(inputs, "image", 0, 1).items()
    }
    if family.mrope:
        call["mm_token_type_ids"] = (ids == IMAGE).int()
    expected = reference_generate(model, call, [kept] * 2, [total] * 2, max_new_tokens=NEW)
    assert torch.equal(ours, expected)
