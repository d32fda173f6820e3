"""The classes of the installed transformers that take encoder outputs, read from its sources.

In: nothing; the modeling files are parsed, none is imported, which would take most of a minute.
Out: for each class that could be pruned its model type, and the reason where it cannot. What is
checked here is what `GenericAdapter` checks on a model. A class that is listed as generic takes
pruned features; only `tests/test_generic.py` says which ones were compared with the masked model.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lvlm_prune.adapters.generic import other_fields

MARK = "mm_encoder_outputs"


@dataclass(frozen=True)
class Candidate:
    """A class with a language-modelling head whose forward accepts encoder outputs.

    Args:
        name: of the class.
        model_type: of its config.
        reason: why it cannot be pruned without a family of its own, or None.
    """

    name: str
    model_type: str
    reason: str | None


class Classes(Mapping[str, ast.ClassDef]):
    """The classes of a source file, parsed one by one when they are asked for."""

    def __init__(self, source: str) -> None:
        # A class ends where the next line begins at the margin, other than with a bracket.
        found = re.finditer(r"^class (\w+).*?(?=^[\w@#]|\Z)", source, re.S | re.M)
        self.texts = {match[1]: match[0] for match in found}

    def naming(self, word: str) -> list[str]:
        """Names of the classes in whose text a word stands."""
        return [name for name, text in self.texts.items() if word in text]

    def __getitem__(self, name: str) -> ast.ClassDef:
        (node,) = ast.parse(self.texts[name]).body
        assert isinstance(node, ast.ClassDef)
        return node

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)


def candidates() -> list[Candidate]:
    """All such classes of the installed transformers, by name."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.submodule_search_locations
    models = Path(spec.submodule_search_locations[0]) / "models"
    found = [one for path in sorted(models.glob("*/modeling_*.py")) for one in _in_file(path)]
    return sorted(found, key=lambda one: one.name.lower())


def _in_file(path: Path) -> Iterator[Candidate]:
    """The candidates of one modeling file."""
    source = path.read_text(encoding="utf-8")
    if MARK not in source:
        return
    classes = Classes(source)
    configs = "".join(
        file.read_text(encoding="utf-8") for file in path.parent.glob("configuration_*.py")
    )
    for name in classes.naming(MARK):
        node = classes[name]
        forward = _method(node, "forward")
        generates = any(base.endswith("GenerationMixin") for base in _bases(node))
        if forward is None or not generates or not {MARK, "labels"} <= _arguments(forward):
            continue
        reason = _reason(node, classes, configs)
        yield Candidate(name, _model_type(node, classes, configs), reason)


def _reason(node: ast.ClassDef, classes: Classes, configs: str) -> str | None:
    """Why a class cannot be pruned by its features, in a few words; None if it can."""
    body = _body(node, classes)
    encode = _method(body, "get_image_features")
    pixels = set() if encode is None else _arguments(encode)
    if "pixel_values" not in pixels:
        return "no get_image_features(pixel_values)"
    if "pixel_values_images" in pixels:
        return "takes pixels under two names"
    if "image_token_id" not in configs:
        return "no config.image_token_id"
    forward = _method(body, "forward") or _method(node, "forward")
    assert forward is not None
    other = other_fields(ast.unparse(forward))
    return f"reads {', '.join(other)} of the encoder's output" if other else None


def _body(node: ast.ClassDef, classes: Classes) -> ast.ClassDef:
    """The class of `model.base_model`, which encodes for `generate`; often `self.model`."""
    prefixes = (_constant(one, "base_model_prefix") for one in _line(node, classes))
    prefix = next(filter(None, prefixes), "")
    start = _method(node, "__init__")
    for step in ast.walk(start) if start else ():
        if not isinstance(step, ast.Assign) or ast.unparse(step.targets[0]) != f"self.{prefix}":
            continue
        if isinstance(step.value, ast.Call) and ast.unparse(step.value.func) in classes:
            return classes[ast.unparse(step.value.func)]
    return node


def _model_type(node: ast.ClassDef, classes: Classes, configs: str) -> str:
    """Model type of the config class that a class, or one it derives from, is annotated with."""
    for one in _line(node, classes):
        for step in one.body:
            if isinstance(step, ast.AnnAssign) and ast.unparse(step.target) == "config":
                name = ast.unparse(step.annotation)
                found = re.search(
                    rf'class {name}\(.*?^    model_type = "(\w[\w-]*)"', configs, re.S | re.M
                )
                return found[1] if found else "?"
    return "?"


def _line(node: ast.ClassDef, classes: Classes) -> Iterator[ast.ClassDef]:
    """A class and those of the same file that it derives from, nearest first."""
    yield node
    for base in _bases(node):
        if base in classes:
            yield from _line(classes[base], classes)


def _bases(node: ast.ClassDef) -> list[str]:
    """Names of the base classes."""
    return [ast.unparse(base) for base in node.bases]


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """A method that the class itself defines."""
    found = (step for step in node.body if isinstance(step, ast.FunctionDef) and step.name == name)
    return next(found, None)


def _arguments(function: ast.FunctionDef) -> set[str]:
    """Names of the arguments."""
    return {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}


def _constant(node: ast.ClassDef, name: str) -> str | None:
    """Text that a class sets as an attribute."""
    for step in node.body:
        if isinstance(step, ast.Assign) and ast.unparse(step.targets[0]) == name:
            return ast.literal_eval(step.value)
    return None
