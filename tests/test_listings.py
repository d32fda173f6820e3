"""What `lvlm-prune methods` and `models` say is what `attach` does and what transformers has."""

import inspect
import re
from pathlib import Path

import pytest
import torch
import transformers
from tiny_families import FAMILIES
from tiny_generic import GENERIC
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lvlm_prune import attach
from lvlm_prune.adapters import FAMILIES as ADAPTERS
from lvlm_prune.adapters import GenericAdapter, adapter_for
from lvlm_prune.capabilities import attention, bound_adapters, runs_on, signals_read
from lvlm_prune.catalogue import candidates
from lvlm_prune.errors import MissingSignalError, UnknownMethodError, UnsupportedModelError
from lvlm_prune.layers.registry import LAYER_METHODS
from lvlm_prune.listings import boundary_table, classes_table, methods_table, models_table
from lvlm_prune.listings_inside import layers_table, reweighters_table
from lvlm_prune.methods import METHODS
from lvlm_prune.reweight.registry import REWEIGHTERS

TYPES = list(bound_adapters())


def attaches(model, method: str) -> bool:
    """Whether `attach` takes the method."""
    try:
        with attach(model, method=method, keep=4):
            return True
    except MissingSignalError:
        return False


def line_of(table: str, name: str) -> list[str]:
    """The columns of the line that begins with a name."""
    (line,) = re.findall(rf"^{re.escape(name)}  .*$", table, re.MULTILINE)
    return re.split(r"  +", line)


@pytest.mark.parametrize("name", METHODS)
def test_methods_run_where_the_table_says(name):
    working = {family for family, tiny in FAMILIES.items() if attaches(tiny.model(), name)}
    others = attaches(GENERIC["gemma3"].model(), name)
    said = line_of(boundary_table(METHODS), name)[-1]
    if said in ("all models", "all families"):
        assert working == set(FAMILIES)
        assert others == (said == "all models")
    else:
        names = {type(adapter_for(FAMILIES[one].model())).__name__ for one in working}
        assert {f"{one}Adapter" for one in said.split(", ")} == names
        assert not others


def test_methods_show_options_papers_and_what_they_read():
    table = boundary_table(METHODS)
    for method in METHODS.values():
        assert method.source in table
        assert method.summary in table
        for option, default in method.options.items():
            assert f"{option}={default}" in table
    assert methods_table().startswith(table)
    assert line_of(table, "visionzip")[1] == "CLS row, keys"
    assert line_of(table, "divprune")[1] == "features"
    assert "question" in line_of(table, "cdpruner")[1]
    assert line_of(table, "downsample")[2] == "image"
    assert "\ncls " not in methods_table("divprune")
    assert len(re.findall("^vscan  ", methods_table("vscan"), re.MULTILINE)) == 2
    with pytest.raises(UnknownMethodError, match="did you mean 'divprune'"):
        methods_table("divprun")


def test_methods_inside_the_llm_show_schedule_options_papers_and_evidence():
    table = methods_table()
    for method in (*LAYER_METHODS.values(), *REWEIGHTERS.values()):
        assert method.summary in table
        assert method.source in table
        for option, default in method.options.items():
            assert f"{option}={default}" in table
    assert all(method.evidence in table for method in REWEIGHTERS.values())
    assert line_of(layers_table(), "pyramiddrop")[-1] == "8: 0.5, 16: 0.25, 24: 0.125"
    assert line_of(layers_table(), "zipvl")[-1].startswith("auto, ")
    assert line_of(reweighters_table(), "vhr")[1:3] == ["0-31 of 32", "decode"]
    assert line_of(reweighters_table(), "vcd")[1:3] == ["logits", "-"]


def test_what_a_method_reads_follows_its_request():
    for method in METHODS.values():
        said = signals_read(method)
        for shape in (adapter.shape for adapter in bound_adapters().values()):
            request = method.request(shape, method.complete({}))
            assert ("question" in said) == request.text
            assert ("pixels" in said) == request.fingerprint
            assert ("keys" in said) == (request.keys_layer is not None)
            if request.received_layers and not request.cls_layers:
                assert "CLS row" in said or "received attention" in said


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in TYPES])
def test_facts_of_families_hold_for_their_models(name):
    tiny = FAMILIES[name]
    adapter = adapter_for(tiny.model())
    said = line_of(models_table(), name)
    assert ("CLS" if adapter.shape.has_cls else "received") in said[1]
    assert said[1] == attention(bound_adapters()[name])
    assert (said[2] == "a patch") == adapter.shape.per_token
    assert (said[4] == "yes") == (tiny.video is not None)
    assert (said[5] == "M-RoPE") == tiny.mrope
    refused = [method for method in METHODS if not attaches(tiny.model(), method)]
    assert said[6] == (", ".join(refused) or "-")


def test_every_model_type_has_a_line():
    table = models_table()
    declared = [model_type for family in ADAPTERS for model_type in family.model_types]
    assert set(TYPES) == set(declared) & set(CONFIG_MAPPING)
    for model_type in (*TYPES, "any other"):
        line_of(table, model_type)


def test_classes_are_those_that_accept_encoder_outputs():
    found = {one.name: one for one in candidates()}
    assert set(found) >= {tiny.name for tiny in GENERIC.values()}
    assert {one.model_type for one in found.values()} >= set(TYPES)
    for name in ("Florence2ForConditionalGeneration", "Gemma3Model", "LlamaForCausalLM"):
        assert name not in found
    for key in GENERIC:
        assert found[GENERIC[key].name].model_type == key
        forward = getattr(transformers, GENERIC[key].name).forward
        assert {"mm_encoder_outputs", "labels"} <= set(inspect.signature(forward).parameters)


def test_classes_called_generic_build_an_adapter():
    table = classes_table()
    for key, tiny in GENERIC.items():
        assert line_of(table, tiny.name) == [tiny.name, key, "features"]
        assert isinstance(adapter_for(tiny.model()), GenericAdapter)
    for model_type in TYPES:
        (line,) = re.findall(rf"^\S+ +{model_type} +.*$", table, re.MULTILINE)
        assert line.endswith(" family")


@pytest.mark.parametrize("name", ["FuyuForCausalLM", "Ovis2ForConditionalGeneration"])
def test_classes_called_impossible_are_refused(name):
    (one,) = (one for one in candidates() if one.name == name)
    assert one.reason
    cls = getattr(transformers, name)
    config = cls.config_class()
    config.get_text_config().num_hidden_layers = 1
    with torch.device("meta"):
        model = cls(config)
    with pytest.raises(
        UnsupportedModelError, match=one.reason.removesuffix(" of the encoder's output")
    ):
        adapter_for(model)


def test_runs_on_is_short():
    assert all(len(runs_on(method)) < 30 for method in METHODS.values())


def test_readme_names_every_method_and_model_type():
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    methods = readme.split("## Methods")[1].split("## Budgets")[0]
    models = readme.split("## Models")[1].split("\n## ")[0]
    for name, method in METHODS.items():
        assert re.search(rf"^\| \[.*`{name}`", methods, re.MULTILINE), name
        for paper in re.findall(r"arXiv ([\d.]+)", method.source):
            assert f"https://arxiv.org/abs/{paper}" in methods
    for model_type in TYPES:
        assert re.search(rf"^\|.*`{model_type}`", models, re.MULTILINE), model_type
    features = re.search(r"features\nalone: (.*?) and\s+methods", models, re.DOTALL)[1]
    working = {name for name, method in METHODS.items() if runs_on(method) == "all models"}
    controls = {"random", "grid", "pool", "identity"}
    assert set(re.findall(r"`(\w+)`", features)) - {"downsample"} == working - controls
