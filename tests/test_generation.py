"""Invariant 5: every way of generating gives what the masked model gives."""

import copy

import pytest
import torch
import transformers
from masked_oracle import masked_generate, masked_inputs
from packaging import version
from tiny_models import IMAGE_TOKEN, prompts
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    StaticCache,
    StoppingCriteria,
    set_seed,
)
from transformers.generation import BaseStreamer

from lvlm_prune import attach, prune_inputs

KEEP = 7
MODES = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 3},
    "beams, several returned": {"num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_k": 20},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "chunked prefill": {"prefill_chunk_size": 5},
    "repetition penalty": {"repetition_penalty": 1.3},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}
SINGLE_ONLY = {"prompt lookup"}
LAYOUTS = {"single": ("titit",), "padded 0/1/2": ("tt", "tit", "ttitti")}


CHUNKS_WITH_IMAGES = version.parse(transformers.__version__) >= version.parse("5.23")


@pytest.mark.parametrize("layouts", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_mode_equals_masked_model(llava, layouts, mode):
    if mode in SINGLE_ONLY and len(layouts) > 1:
        pytest.skip("transformers refuses batches in this mode")
    if mode == "chunked prefill" and not CHUNKS_WITH_IMAGES:
        pytest.skip("transformers cuts encoded images into chunks from 5.23 on")
    inputs = prompts(*layouts)
    settings = {"max_new_tokens": 6, **MODES[mode]}
    with attach(llava, method="cls", keep=KEEP) as handle:
        set_seed(0)
        ours = llava.generate(**inputs, **settings)
        kept = handle.report.kept
    # The reference needs no chunks: only ours is under test.
    plain = {k: v for k, v in settings.items() if k != "prefill_chunk_size"}
    assert torch.equal(ours, masked_generate(llava, inputs, kept, **plain))


def test_assisted_decoding_equals_greedy(llava_sdpa):
    inputs = prompts("tit")
    assistant = copy.deepcopy(llava_sdpa)
    with attach(llava_sdpa, method="cls", keep=KEEP):
        greedy = llava_sdpa.generate(**inputs, max_new_tokens=6)
        assisted = llava_sdpa.generate(**inputs, max_new_tokens=6, assistant_model=assistant)
    assert torch.equal(assisted, greedy)


@pytest.mark.slow
def test_compiled_decode_over_a_static_cache(llava_sdpa):
    """The forward hook must not break the compiled decode step."""
    inputs = prompts("tit")
    model = copy.deepcopy(llava_sdpa)
    with attach(model, method="cls", keep=KEEP):
        greedy = model.generate(**inputs, max_new_tokens=5)
        compiled = torch.compile(model.__call__, fullgraph=True, backend="eager")
        pruned, _ = prune_inputs(model, inputs, method="cls", keep=KEEP)
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
        logits = model(**pruned, past_key_values=cache).logits[:, -1]
        position = pruned["position_ids"][:, -1:]
        tokens = []
        for _ in range(5):
            logits[:, [IMAGE_TOKEN, 1, 2]] = -torch.inf
            tokens.append(logits.argmax(-1, keepdim=True))
            position = position + 1
            with torch.no_grad():
                step = compiled(input_ids=tokens[-1], position_ids=position, past_key_values=cache)
            logits = step.logits[:, -1]
    assert torch.equal(torch.cat(tokens, 1), greedy[:, -5:])


@pytest.mark.parametrize("padding", ["left", "right"])
def test_loss_and_gradients_equal_the_masked_model(llava, padding):
    model = copy.deepcopy(llava).train()
    inputs = prompts("tit", "ttitt", padding=padding)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[labels == IMAGE_TOKEN] = -100
    # The first token of a padded row is predicted by padding, which is garbage in any model.
    labels[inputs["input_ids"] == 1] = -100
    # The token after an image is predicted by a visual token, which may be the dropped one.
    after = (inputs["input_ids"][:, :-1] == IMAGE_TOKEN).nonzero()
    labels[after[:, 0], after[:, 1] + 1] = -100
    with attach(model, method="cls", keep=KEEP) as handle:
        loss = model(**inputs, labels=labels).loss
        kept = handle.report.kept
    loss.backward()
    names = ("vision_tower.embeddings.patch_embedding", "multi_modal_projector.linear_1")
    ours = {name: model.model.get_submodule(name).weight.grad.clone() for name in names}
    model.zero_grad()
    reference = model(**masked_inputs(inputs, kept, IMAGE_TOKEN), labels=labels).loss
    reference.backward()
    assert abs(loss - reference) < 1e-6
    for name in names:
        theirs = model.model.get_submodule(name).weight.grad
        assert theirs.abs().max() > 0
        assert (ours[name] - theirs).abs().max() < 1e-5 * max(1, theirs.abs().max())


class Recorder(LogitsProcessor, StoppingCriteria, BaseStreamer):
    """Sees ids wherever a caller may look at them."""

    def __init__(self, answer):
        self.answer = answer
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append(input_ids.clone())
        return scores if self.answer is None else torch.zeros(len(input_ids), dtype=torch.bool)

    def put(self, value):
        self.seen.append(value)

    def end(self):
        self.seen.append(None)


def test_callers_objects_see_the_original_prompt(llava_sdpa):
    inputs = prompts("tit", "ttitt")
    processor, criterion, streamer = Recorder(None), Recorder(False), Recorder(None)
    with attach(llava_sdpa, method="cls", keep=KEEP):
        llava_sdpa.generate(
            **inputs,
            max_new_tokens=3,
            logits_processor=[processor],
            stopping_criteria=[criterion],
        )
        llava_sdpa.generate(**prompts("tit"), max_new_tokens=3, streamer=streamer)
    length = inputs["input_ids"].shape[1]
    for step, seen in enumerate(processor.seen):
        assert seen.shape[1] == length + step
        assert torch.equal(seen[:, :length], inputs["input_ids"])
    assert [seen.shape[1] for seen in criterion.seen] == [length + 1, length + 2, length + 3]
    assert torch.equal(streamer.seen[0], prompts("tit")["input_ids"])
    assert streamer.seen[-1] is None


@pytest.mark.parametrize("where", ["argument", "config argument", "model default"])
def test_max_length_counts_the_original_prompt(llava_sdpa, where):
    inputs = prompts("tit")
    length = inputs["input_ids"].shape[1] + 4
    model = copy.deepcopy(llava_sdpa)
    settings = {}
    if where == "argument":
        settings = {"max_length": length}
    elif where == "config argument":
        config = GenerationConfig(max_length=length, pad_token_id=0, suppress_tokens=[90, 1, 2])
        settings = {"generation_config": config}
    else:
        model.generation_config.max_length = length
    with attach(model, method="cls", keep=KEEP):
        assert model.generate(**inputs, **settings).shape[1] == length
    if where == "config argument":
        assert settings["generation_config"].max_length == length


def test_positional_ids_and_inferred_mask(llava_sdpa):
    inputs = prompts("tit", "ttitt")
    with attach(llava_sdpa, method="cls", keep=KEEP):
        expected = llava_sdpa.generate(**inputs, max_new_tokens=3)
        ids, pixels = inputs["input_ids"], inputs["pixel_values"]
        assert torch.equal(
            llava_sdpa.generate(ids, pixel_values=pixels, max_new_tokens=3), expected
        )


@torch.no_grad()
def test_compact_positions_are_a_short_prompt(llava_sdpa):
    """Compact positions: the LLM fed the kept rows as if there had never been others."""
    inputs = prompts("tit")
    with attach(llava_sdpa, method="cls", keep=KEEP, positions="compact") as handle:
        ours = llava_sdpa.generate(**inputs, max_new_tokens=4)[:, -4:]
        (kept,) = handle.report.kept
    pruned, _ = prune_inputs(llava_sdpa, inputs, method="cls", keep=KEEP, positions="compact")
    ids = pruned["input_ids"]
    assert pruned["position_ids"].tolist() == [list(range(ids.shape[1]))]
    rows = llava_sdpa.model.get_image_features(pixel_values=inputs["pixel_values"])
    embeds = llava_sdpa.get_input_embeddings()(ids)
    embeds[ids == IMAGE_TOKEN] = rows.pooler_output[0][kept]
    assert torch.equal(llava_sdpa.generate(inputs_embeds=embeds, max_new_tokens=4), ours)


@torch.no_grad()
def test_pruned_inputs_drive_the_stock_model(llava_sdpa):
    inputs = prompts("tit", "ttitt")
    pruned, plan = prune_inputs(llava_sdpa, inputs, method="cls", keep=KEEP)
    assert "generate" not in llava_sdpa.__dict__
    ours = llava_sdpa.generate(**pruned, max_new_tokens=4)
    with attach(llava_sdpa, method="cls", keep=KEEP):
        expected = llava_sdpa.generate(**inputs, max_new_tokens=4)
    assert torch.equal(ours[:, plan.index.shape[1] :], expected[:, plan.length :])
    again, plan = prune_inputs(llava_sdpa, prompts("tt"), method="cls", keep=KEEP)
    assert torch.equal(again["input_ids"], prompts("tt")["input_ids"])
    assert plan.dropped == 0


def test_prefix_function_sees_the_original_prompt(llava_sdpa):
    inputs = prompts("tit", "ttitt")
    length = inputs["input_ids"].shape[1]
    for settings in ({"num_return_sequences": 2, "do_sample": True}, {"num_beams": 2}):
        seen = []

        def allowed(row, ids, seen=seen):
            seen.append((row, ids.clone()))
            return list(range(3, 80))

        with attach(llava_sdpa, method="cls", keep=KEEP):
            llava_sdpa.generate(
                **inputs, max_new_tokens=2, prefix_allowed_tokens_fn=allowed, **settings
            )
        for row, ids in seen:
            prompt = row // 2 if "do_sample" in settings else row
            assert len(ids) in (length, length + 1)
            assert torch.equal(ids[:length], inputs["input_ids"][prompt])


def test_callers_end_token_criterion_pads_finished_rows(llava_sdpa):
    inputs = prompts("tit", "ttitt")
    with attach(llava_sdpa, method="cls", keep=KEEP) as handle:
        free = llava_sdpa.generate(**inputs, max_new_tokens=6)
        end = int(free[0, -5])
        settings = {"max_new_tokens": 6, "stopping_criteria": [EosTokenCriteria(end)]}
        ours = llava_sdpa.generate(**inputs, **settings)
        kept = handle.report.kept
    assert torch.equal(ours, masked_generate(llava_sdpa, inputs, kept, **settings))


@pytest.mark.parametrize(
    ("default", "passed"),
    [
        ({"max_length": 47}, {}),
        ({"min_length": 47, "max_length": 50}, {"eos_token_id": [90, 1, 2]}),
        ({"use_cache": False}, {"max_new_tokens": 4}),
    ],
    ids=["max_length", "min_length", "use_cache"],
)
def test_settings_of_the_model_count_behind_a_passed_config(llava_sdpa, default, passed):
    model = copy.deepcopy(llava_sdpa)
    for name, value in default.items():
        setattr(model.generation_config, name, value)
    inputs = prompts("tit")
    config = GenerationConfig(**passed)
    with attach(model, method="cls", keep=KEEP) as handle:
        ours = model.generate(**inputs, generation_config=config)
        kept = handle.report.kept
    masked = masked_generate(model, inputs, kept, generation_config=GenerationConfig(**passed))
    assert torch.equal(ours, masked)
    assert config.max_length is None


def test_mask_is_inferred_from_the_padding_of_the_call(llava_sdpa):
    inputs = prompts("tit", "ttitt")
    model = copy.deepcopy(llava_sdpa)
    model.generation_config.pad_token_id = None
    with attach(model, method="cls", keep=KEEP):
        expected = model.generate(**inputs, max_new_tokens=3, pad_token_id=0)
        del inputs["attention_mask"]
        assert torch.equal(model.generate(**inputs, max_new_tokens=3, pad_token_id=0), expected)


def test_masked_placeholders_equal_the_masked_model(llava_sdpa):
    inputs = prompts("tit")
    inputs["attention_mask"][0, 6:20] = 0
    with attach(llava_sdpa, method="random", keep=20) as handle, torch.no_grad():
        ours = llava_sdpa(**inputs).logits[:, -1]
        masked = masked_inputs(inputs, handle.report.kept, IMAGE_TOKEN)
    assert (llava_sdpa(**masked).logits[:, -1] - ours).abs().max() < 1e-5


def test_one_row_of_positions_serves_a_batch(llava_sdpa):
    inputs = prompts("tit", "tit")
    positions = torch.arange(inputs["input_ids"].shape[1])[None]
    with attach(llava_sdpa, method="cls", keep=KEEP), torch.no_grad():
        expected = llava_sdpa(**inputs).logits
        assert torch.equal(llava_sdpa(**inputs, position_ids=positions).logits, expected)
