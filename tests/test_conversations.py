"""Conversations: a pruned cache that is carried on, by turns, by hand, after errors."""

import pytest
import torch
from masked_oracle import masked_generate, masked_inputs
from tiny_models import IMAGE_TOKEN, prompts
from transformers import DynamicCache, StaticCache
from transformers.generation import BaseStreamer

from lvlm_prune import attach

KEEP = 7


@pytest.mark.parametrize("full_history", [True, False])
@pytest.mark.parametrize(
    "layouts",
    [("tit",), ("tit", "ttitt", "tt"), ("t" * 15, "tit")],
    ids=["1", "3", "text row longest"],
)
def test_multi_turn_with_a_new_image(llava, layouts, full_history):
    """Turn 2 adds an image to every row, turn 3 text; the cache is carried along."""
    first = prompts(*layouts)
    second = prompts(*["tit"] * len(layouts), seed=7)
    third = prompts(*["tt"] * len(layouts), seed=9)
    cache = DynamicCache(config=llava.config.get_text_config())
    kept, pixels = [], []
    history, mask, last = None, None, None
    with attach(llava, method="cls", keep=KEEP) as handle:
        for turn in (first, second, third):
            ids = turn["input_ids"]
            if history is None:
                history, mask = ids, turn["attention_mask"]
            else:
                history = torch.cat([history, ids], 1)
                pad = history.shape[1] - mask.shape[1]
                mask = torch.cat([mask, mask.new_ones(len(mask), pad)], 1)
            call = {"input_ids": history, "attention_mask": mask}
            if not full_history and turn is not first:
                # The last generated token is not cached yet, so it is new too.
                call["input_ids"] = torch.cat([last, ids], 1)
            if "pixel_values" in turn:
                call["pixel_values"] = turn["pixel_values"]
            out = llava.generate(**call, past_key_values=cache, max_new_tokens=4)
            new = out[:, call["input_ids"].shape[1] :]
            if "pixel_values" in turn:
                kept.append(handle.report.kept)
                pixels.append(turn["pixel_values"])
            last = new[:, -1:]
            expected = reference_turn(llava, history, mask, kept, pixels)
            assert torch.equal(new, expected)
            history = torch.cat([history, new], 1)
    # Every row dropped the image of turn 2, whatever it had in turn 1.
    assert cache.get_seq_length() <= history.shape[1] - 1 - (36 - KEEP)


def reference_turn(model, history, mask, kept, pixels):
    """Answer the whole conversation afresh with the masked model."""
    mask = torch.cat([mask, mask.new_ones(len(mask), history.shape[1] - mask.shape[1])], 1)
    order, images, turns = image_order(history, kept)
    inputs = {
        "input_ids": history,
        "attention_mask": mask,
        "pixel_values": torch.stack(
            [pixels[turn][image] for turn, image in zip(turns, images, strict=True)]
        ),
    }
    return model.generate(**masked_inputs(inputs, order, IMAGE_TOKEN), max_new_tokens=4)[
        :, history.shape[1] :
    ]


def image_order(history, kept):
    """Images of a conversation in prompt order: row by row, turn by turn."""
    seen = [0] * len(kept)
    order, images, turns = [], [], []
    for row in history:
        for turn in range(int((row == IMAGE_TOKEN).sum()) // 36):
            # A row whose first turn had no image starts with the second turn's.
            place = turn if int((row == IMAGE_TOKEN).sum()) // 36 == len(kept) else turn + 1
            order.append(kept[place][seen[place]])
            images.append(seen[place])
            turns.append(place)
            seen[place] += 1
    return order, images, turns


LOOPS = {"single": ("tit",), "padded": ("tit", "ttitt"), "text row longest": ("t" * 15, "tit")}


@pytest.mark.parametrize("layouts", LOOPS.values(), ids=LOOPS)
@torch.no_grad()
def test_hand_written_decode_loop(llava, layouts):
    """Forward with a cache, then steps without position_ids, as scripts do."""
    inputs = prompts(*layouts)
    with attach(llava, method="cls", keep=KEEP):
        expected = llava.generate(**inputs, max_new_tokens=4)[:, -4:]
        out = llava(**inputs, use_cache=True)
        mask, tokens = inputs["attention_mask"], []
        for _ in range(4):
            logits = out.logits[:, -1].clone()
            logits[:, [IMAGE_TOKEN, 1, 2]] = -torch.inf
            tokens.append(logits.argmax(-1, keepdim=True))
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            out = llava(
                input_ids=tokens[-1], attention_mask=mask, past_key_values=out.past_key_values
            )
    assert torch.equal(torch.cat(tokens, 1), expected)


@pytest.mark.parametrize("grown", [True, False])
def test_a_cache_survives_an_exception(llava_sdpa, grown):
    """Decoding that is stopped half-way, or fails before it began, can be gone on from."""
    inputs = prompts("tit")
    cache = DynamicCache(config=llava_sdpa.config.get_text_config())
    with attach(llava_sdpa, method="cls", keep=KEEP):
        expected = llava_sdpa.generate(**inputs, max_new_tokens=6)
        if grown:
            stop = Stop(after=3)
            with pytest.raises(KeyboardInterrupt):
                llava_sdpa.generate(
                    **inputs, past_key_values=cache, max_new_tokens=6, streamer=stop
                )
            tokens = torch.stack(stop.tokens, 1)
        else:
            out = llava_sdpa.generate(**inputs, past_key_values=cache, max_new_tokens=3)
            tokens = out[:, -3:]
        history = torch.cat([inputs["input_ids"], tokens], 1)
        call = {"input_ids": history, "attention_mask": torch.ones_like(history)}
        if not grown:
            with pytest.raises(ValueError, match="max_length=5 leaves no room"):
                llava_sdpa.generate(**call, past_key_values=cache, max_length=5)
        rest = 6 - tokens.shape[1]
        ours = llava_sdpa.generate(**call, past_key_values=cache, max_new_tokens=rest)
    assert torch.equal(ours, expected)


class Stop(BaseStreamer):
    """A stop button: remembers tokens and raises after some of them."""

    def __init__(self, after):
        self.after = after
        self.tokens = []

    def put(self, value):
        if value.dim() == 1:
            self.tokens.append(value.clone())
        if len(self.tokens) == self.after:
            raise KeyboardInterrupt

    def end(self):
        raise AssertionError("the stop button was not pressed")


def test_static_cache_can_be_reset_and_used_again(llava_sdpa):
    inputs = prompts("tit")
    cache = StaticCache(config=llava_sdpa.config.get_text_config(), max_cache_len=64)
    with attach(llava_sdpa, method="cls", keep=KEEP), torch.no_grad():
        first = llava_sdpa(**inputs, past_key_values=cache).logits
        cache.reset()
        assert torch.equal(llava_sdpa(**inputs, past_key_values=cache).logits, first)


def test_a_cut_cache_is_a_sentence(llava_sdpa):
    inputs = prompts("tit", "ttitt")
    with attach(llava_sdpa, method="cls", keep=KEEP), torch.no_grad():
        cache = llava_sdpa(**inputs, use_cache=True).past_key_values
        cache.batch_select_indices(torch.tensor([0]))
        with pytest.raises(ValueError, match="start with a new cache"):
            llava_sdpa(input_ids=torch.tensor([[5]]), past_key_values=cache)


@torch.no_grad()
def test_no_cache_is_made_where_none_is_wanted(llava_sdpa):
    with attach(llava_sdpa, method="cls", keep=KEEP):
        assert llava_sdpa(**prompts("tit"), use_cache=False).past_key_values is None
        assert llava_sdpa(**prompts("tit"), use_cache=True).past_key_values is not None


@torch.no_grad()
def test_a_cache_of_beams_is_gone_on_from(llava_sdpa):
    """The rows of a cache repeat the prompts; the next turn passes as many."""
    inputs = prompts("tit", "ttitt")
    settings = {"return_dict_in_generate": True, "max_new_tokens": 3}
    with attach(llava_sdpa, method="cls", keep=KEEP) as handle:
        out = llava_sdpa.generate(**inputs, num_return_sequences=2, do_sample=True, **settings)
        kept = handle.report.kept
        history = torch.cat([out.sequences, torch.full((4, 2), 7)], 1)
        mask = inputs["attention_mask"].repeat_interleave(2, 0)
        mask = torch.cat([mask, mask.new_ones(4, 5)], 1)
        ours = llava_sdpa.generate(
            input_ids=history,
            attention_mask=mask,
            past_key_values=out.past_key_values,
            max_new_tokens=3,
        )
    twice = {
        "input_ids": history,
        "attention_mask": mask,
        "pixel_values": inputs["pixel_values"].repeat_interleave(2, 0),
    }
    kept = [rows for rows in kept for _ in range(2)]
    assert torch.equal(ours, masked_generate(llava_sdpa, twice, kept, max_new_tokens=3))
