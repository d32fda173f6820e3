"""Whether the values of a `results.json` are what a report reads, place by place.

In: values that were parsed from a file. Out: nothing, or a ValueError that names the first place
that is not as it has to be. A shape is a word for one value (`text`, `count`, `number`, `flag`,
`anything`; with `?` behind it also null), `Each` for a mapping with any names, `List`, or `Fields`
for a mapping with given names. Only what reports and comparisons read is looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Each:
    """A mapping of which every value has one shape; null too, if `optional`."""

    shape: "Shape"
    least: int = 0
    optional: bool = False


@dataclass(frozen=True)
class List:
    """A list of which every value has one shape."""

    shape: "Shape"
    least: int = 0


@dataclass(frozen=True)
class Fields:
    """A mapping with given names, others aside; `may` names those that may be absent."""

    shapes: Mapping[str, "Shape"]
    may: Mapping[str, "Shape"]
    optional: bool = False


Shape = str | Each | List | Fields

NUMBER = Fields({"value": "number"}, {"low": "number?", "high": "number?"})
FLIPS = (
    *("yes_to_no", "no_to_yes", "right_to_wrong", "wrong_to_right", "prompts"),
    *("prompts_right_to_wrong", "prompts_wrong_to_right"),
)
ANSWERS = Fields(
    {**dict.fromkeys(FLIPS, "count"), "mcnemar_p": "number", "yes_shift": "number"}, {}, True
)
PAIR = Fields({"differences": Each(NUMBER), "answers": ANSWERS}, {})
SAYS = ("yes", "no", "unparsed", "empty", "error")
BLOCK = Fields(
    {
        **dict.fromkeys(("answered", "total", "units"), "count"),
        "counts": Fields(dict.fromkeys(SAYS, "count"), {}),
        "parsers": Each(Each(NUMBER)),
        "notes": List("text"),
    },
    {},
)
TIMES = Fields(dict.fromkeys(("encode", "select", "splice", "prefill"), "number"), {}, True)
PREFILL = Fields({}, {"times": TIMES, "llm_ratio": "number", "total_ratio": "number"}, True)
RUN = Fields(
    {
        **dict.fromkeys(("run", "label"), "text"),
        **dict.fromkeys(("kept", "total"), "tokens"),
        "benchmarks": Each(Each(BLOCK)),
    },
    {
        "method": "text",
        "baseline": "flag",
        "prefill": PREFILL,
        "layers": Fields({}, {"average": "number"}, True),
        "against_baseline": Each(Each(PAIR), optional=True),
    },
)
HEADLINE = Fields({"metric": "text", "scale": "tokens", "lower_is_better": "flag"}, {})
DATA = Fields(
    {"headlines": Each(HEADLINE, least=1), "version": Each("text")},
    {
        **dict.fromkeys(("lines", "prompts", "images"), "count?"),
        "unreadable_images": List("text"),
    },
)
RESULTS = Fields(
    {"model": "text", "benchmarks": Each(DATA, least=1), "runs": List(RUN, least=1)},
    {"generation": Each("anything", optional=True), "left_out": Each("anything", optional=True)},
)
NEEDED = {
    "text": "a text",
    "count": "a whole number, 0 or more",
    "number": "a number",
    "tokens": "a number above 0",
    "flag": "true or false",
}
LARGEST = 1e9  # no score, time or count is as large; not a number and infinity are not below it
LONGEST = 40  # letters of a wrong value that a message shows


def check_results(values: Any) -> None:
    """Refuse values that a report cannot be made of.

    Args:
        values: of a `results.json`.

    Raises:
        ValueError: the first place that is not as it has to be.
    """
    _check(values, RESULTS, "")


def _check(value: Any, shape: Shape, place: str) -> None:
    """One place and all below it."""
    match shape:
        case str():
            _check_one(value, shape, place)
        case List(each, least):
            if not isinstance(value, list) or len(value) < least:
                raise _wrong(value, "a list" + _at_least(least), place)
            for number, one in enumerate(value):
                _check(one, each, f"{place}[{number}]")
        case Each(each, least, optional):
            if value is None and optional:
                return
            if not isinstance(value, dict) or len(value) < least:
                raise _wrong(value, "an object" + _at_least(least), place)
            for name, one in value.items():
                _check(one, each, _below(place, name))
        case Fields(shapes, may, optional):
            _check_fields(value, shapes, may, optional, place)


def _check_fields(
    value: Any, shapes: Mapping[str, Shape], may: Mapping[str, Shape], optional: bool, place: str
) -> None:
    """A mapping with given names."""
    if value is None and optional:
        return
    if not isinstance(value, dict):
        raise _wrong(value, "an object", place)
    missing = [name for name in shapes if name not in value]
    if missing:
        raise ValueError(f"it has no {' and no '.join(_below(place, name) for name in missing)}")
    for name, shape in {**shapes, **may}.items():
        if name in value:
            _check(value[name], shape, _below(place, name))


def _check_one(value: Any, shape: str, place: str) -> None:
    """A single value."""
    kind = shape.removesuffix("?")
    if kind == "anything" or (value is None and kind != shape):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    fits = {
        "text": isinstance(value, str),
        "flag": isinstance(value, bool),
        "number": number,
        "count": number and isinstance(value, int) and value >= 0,
        "tokens": number and value > 0,
    }
    if not fits[kind]:
        raise _wrong(value, NEEDED[kind], place)


def _below(place: str, name: str) -> str:
    """A name below a place."""
    return f"{place}.{name}" if place else name


def _at_least(least: int) -> str:
    """How many values a list or an object has to hold."""
    return " that is not empty" if least else ""


def _wrong(value: Any, needed: str, place: str) -> ValueError:
    """What stands where something else is needed."""
    said = repr(value) if not isinstance(value, Sequence | Mapping) or value else "empty"
    said = "null" if value is None else said
    said = said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"
    return ValueError(f"its {place or 'content'} is {said}, not {needed}")
