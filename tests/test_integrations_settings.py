"""Settings that other harnesses hand over mean what they mean everywhere else, or are refused."""

import os

import pytest
import torch
from PIL import Image

from lvlm_prune import PruneConfig
from lvlm_prune.eval.integrations.arguments import read_arguments, split_words
from lvlm_prune.eval.integrations.chat import interleave, world_size_hidden
from lvlm_prune.eval.integrations.generation import MAX_NEW_TOKENS, read_generation


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"method": "cls", "keep": 64}, {"method": "cls", "keep": 64}),
        ({"method": "cls", "keep": "64"}, {"method": "cls", "keep": 64}),
        ({"keep": "1"}, {"keep": 1}),
        ({"keep": 1.0}, {"keep": 1.0}),
        ({"keep": "25%"}, {"keep": 0.25}),
        ({"method": '"cls"', "sinks": "drop"}, {"method": "cls", "sinks": "drop"}),
        ({"sinks": "keep", "sink_threshold": "40.5"}, {"sinks": "keep", "sink_threshold": 40.5}),
        ({"sink_threshold": "none", "received_rows": "None"}, {}),
        ({"received_rows": "16", "seed": "3"}, {"received_rows": 16, "seed": 3}),
        ({"layers": "fastv@2:0.5"}, {"layers": "fastv@2:0.5"}),
        (
            {"layers": "'pyramiddrop@8:0.5,16:64'"},
            {"layers": {"method": "pyramiddrop", "stages": {8: 0.5, 16: 64}}},
        ),
        (
            {"reweight": '{"method": "pai", "options": {"alpha": 0.3}}'},
            {"reweight": {"method": "pai", "options": {"alpha": 0.3}}},
        ),
        ({"layers": "none", "reweight": "var"}, {"reweight": "var"}),
        ({"options": '{"start_layer": 3}'}, {"options": {"start_layer": 3}}),
        ({"per": "tile", "order": "sinks_first"}, {"per": "tile", "order": "sinks_first"}),
        ({"positions": "compact"}, {"positions": "compact"}),
    ],
)
def test_settings_make_the_config_of_attach(settings, expected):
    found = read_arguments({"pretrained": "some/model", **settings})
    assert found.config == PruneConfig.from_dict(expected)
    assert found.pretrained == "some/model"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kep": 64}, r"unknown settings \['kep'\]; known: pretrained, keep, layers"),
        ({"batch": 2, "metod": "cls"}, r"unknown settings \['batch', 'metod'\]"),
        ({"keep": "many"}, "keep=many cannot be read.*is no number"),
        ({"keep": 0}, "at least one token"),
        ({"keep": "150%"}, "in \\(0, 1\\]"),
        ({"seed": "one"}, "seed=one cannot be read"),
        ({"options": "{start_layer: 3}"}, "options={start_layer: 3} cannot be read"),
        ({"layers": '{"metod": "fastv"}'}, "unknown layer schedule keys"),
        ({"sinks": "none"}, "sinks must be one of"),
        ({"reweight": "gifts"}, "did you mean 'gift'"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        read_arguments(settings)


@pytest.mark.parametrize("settings", [{"method": 3}, {"options": [1]}, {"seed": 1.5}])
def test_other_kinds_of_values_are_refused(settings):
    with pytest.raises(TypeError):
        read_arguments(settings)


def test_no_method_is_not_the_method_none():
    """`method=none` must not become the default, which prunes."""
    assert read_arguments({"method": "none"}).config.method == "none"


DIFFERENT = (
    {},
    {"keep": 49},
    {"keep": 0.5},
    {"pretrained": "qwen-pictogram"},
    {"method": "cls"},
    {"sinks": "drop"},
    {"per": "tile"},
    {"layers": "fastv"},
    {"layers": "fastv@2:0.5"},
    {"reweight": "var"},
    {"reweight": "var:official_code"},
    {"seed": 1},
)


def test_unique_names_differ_where_settings_do_and_only_there():
    names = [read_arguments(settings).unique_name() for settings in DIFFERENT]
    assert len(set(names)) == len(DIFFERENT)
    assert names == [read_arguments(settings).unique_name() for settings in DIFFERENT]
    assert read_arguments({"keep": "25%"}).unique_name() == read_arguments({}).unique_name()
    assert read_arguments({}).unique_name(max_new_tokens=8) not in names
    assert all("/" not in name and " " not in name for name in names)
    assert read_arguments({"pretrained": "owner/name"}).unique_name().startswith("lvlm-prune-name-")


def test_leading_words_are_settings():
    words = ["method=cls", "layers=pyramiddrop@8:0.5,16:0.25", "--data", "POPE", "a=b"]
    settings, rest = split_words(words)
    assert settings == {"method": "cls", "layers": "pyramiddrop@8:0.5,16:0.25"}
    assert rest == ["--data", "POPE", "a=b"]
    assert split_words([]) == ({}, [])
    assert split_words(["pretrained=a=b"]) == ({"pretrained": "a=b"}, [])


@pytest.mark.parametrize("words", [["POPE"], ["keep=1", "keep=2"], ["keep=1", "POPE", "--data"]])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match="name=value once"):
        split_words(words)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS}),
        ({"max_new_tokens": 8}, {"do_sample": False, "max_new_tokens": 8}),
        (
            {"max_new_tokens": 8, "temperature": 0, "top_p": 1.0, "do_sample": True},
            {"do_sample": False, "max_new_tokens": 8},
        ),
        (
            {"max_new_tokens": 8, "temperature": 0.7, "top_p": None, "top_k": 5},
            {"do_sample": True, "max_new_tokens": 8, "temperature": 0.7, "top_k": 5},
        ),
        (
            {"temperature": 1.0, "do_sample": False, "max_new_tokens": 2},
            {"do_sample": False, "max_new_tokens": 2},
        ),
        (
            {"do_sample": True, "max_new_tokens": 2, "num_beams": 3},
            {"do_sample": True, "max_new_tokens": 2, "num_beams": 3},
        ),
    ],
)
def test_generation_is_greedy_unless_samples_are_asked_for(settings, options):
    found = read_generation(settings)
    assert found.options == options
    assert found.unused == ()


@pytest.mark.parametrize(
    ("until", "answer"),
    [
        (None, "a cat. A dog\n\nand"),
        ("", "a cat. A dog\n\nand"),
        ("\n\n", "a cat. A dog"),
        (["\n\n", "."], "a cat"),
        (["A", "."], "a cat"),
        (["zebra"], "a cat. A dog\n\nand"),
    ],
)
def test_answers_end_at_the_first_stop(until, answer):
    assert read_generation({"until": until}).cut("a cat. A dog\n\nand") == answer


def test_stops_are_texts():
    with pytest.raises(TypeError, match="until must be"):
        read_generation({"until": [3]})


def test_settings_without_a_use_are_named():
    found = read_generation({"image_aspect_ratio": "original", "seed": 1, "num_beams": 1})
    assert found.unused == ("image_aspect_ratio", "seed")


A, B = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")


@pytest.mark.parametrize(
    ("text", "images", "parts"),
    [
        ("Is it?", [], ["Is it?"]),
        ("Is it?", [A], [A, "Is it?"]),
        ("Which?", [A, B], [A, B, "Which?"]),
        ("<image>Is it?", [A], [A, "Is it?"]),
        ("One <image> or <image>", [A, B], ["One ", A, " or ", B]),
        ("<image><image>", [A, B], [A, B]),
    ],
)
def test_images_stand_where_the_text_has_them(text, images, parts):
    found = interleave(text, images)
    assert len(found) == len(parts)
    assert all(one is other or one == other for one, other in zip(found, parts, strict=True))


@pytest.mark.parametrize(("text", "images"), [("<image> <image>", [A]), ("<image>", [])])
def test_other_numbers_of_placeholders_are_refused(text, images):
    with pytest.raises(ValueError, match="placeholders <image> for"):
        interleave(text, images)


@pytest.mark.parametrize("visual", ["clip.mp4", torch.zeros(3), {"array": [0.0]}, None])
def test_visuals_that_are_no_images_are_refused(visual):
    with pytest.raises(TypeError, match="only images"):
        interleave("What happens?", [visual])


@pytest.mark.parametrize("size", [None, "2"])
def test_the_world_is_hidden_for_a_while(monkeypatch, size):
    def look():
        assert "WORLD_SIZE" not in os.environ
        raise KeyError

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(KeyError), world_size_hidden():
        look()
    assert os.environ.get("WORLD_SIZE") == size
