"""How a report tells what was run: what decides about answers, and no dump of a config."""

import pytest

from lvlm_prune.eval.report_about import generation_words

DUMP = {
    "_from_model_config": True, "bos_token_id": 1, "do_sample": True, "eos_token_id": [2, 3],
    "max_new_tokens": 16, "output_attentions": False, "pad_token_id": 0, "temperature": 0.2,
    "top_p": 0.9, "use_cache": True, "num_beams": 1, "repetition_penalty": 1.0, "min_length": 0,
    "bad_words_ids": None,
}  # fmt: skip


def test_a_config_of_usual_values_is_not_told():
    values = {"do_sample": False, "max_new_tokens": {"pope": 4, "mme": 4}}
    told = generation_words({**values, "generation_config": DUMP})
    assert told == "`do_sample=False`, `max_new_tokens=4`"


def test_lengths_that_differ_are_told_for_each_benchmark():
    told = generation_words({"do_sample": False, "max_new_tokens": {"pope": 4, "chair": 512}})
    assert told == "`do_sample=False`, `max_new_tokens=pope:4 chair:512`"


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_beams", 5), ("repetition_penalty", 1.05), ("bad_words_ids", [[7]]), ("new_one", 3)],
)
def test_what_is_not_usual_is_told(name, value):
    told = generation_words({"do_sample": False, "generation_config": {**DUMP, name: value}})
    assert told == f"`do_sample=False`, `{name}={value}`"


def test_settings_of_sampling_are_told_where_something_is_sampled():
    told = generation_words({"do_sample": True, "generation_config": DUMP})
    assert told == "`do_sample=True`, `temperature=0.2`, `top_p=0.9`"


def test_nothing_known_is_said():
    assert generation_words({}) == "as the model has it"
