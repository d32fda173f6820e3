"""AMBER: questions and descriptions of 1,004 images (Wang et al., arXiv 2311.07397).

In: the files of `data/` of junyangwang0410/AMBER. Out: 14,216 yes/no questions (key `amber`) on
existence, attributes (state, number, action) and relations, and 1,004 requests for a description
(key `amber_generative`), as the files ask them; no words are added to a question. The two rules are
`amber_discriminative` and `amber_generative`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lvlm_prune.eval.amber_discriminative import ATTRIBUTES, DISCRIMINATIVE, EXISTENCE, RELATION
from lvlm_prune.eval.amber_generative import GENERATIVE, Associations
from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.data_version import file_versions

__all__ = ["DISCRIMINATIVE", "GENERATIVE", "load"]

GENERATIVE_SPLIT = "generative"
KEYS = {"discriminative": "amber", GENERATIVE_SPLIT: "amber_generative"}
# Existence is called hallucination in the file, and relations have two names.
SPLIT_OF = {
    "generative": GENERATIVE_SPLIT,
    "discriminative-hallucination": EXISTENCE,
    "discriminative-relation": RELATION,
    "relation": RELATION,
    **{f"discriminative-attribute-{kind}": kind for kind in ATTRIBUTES},
}
DISCRIMINATIVE_SPLITS = (EXISTENCE, *ATTRIBUTES, RELATION)
SUBSETS: Mapping[str, tuple[str, ...]] = {
    "discriminative": DISCRIMINATIVE_SPLITS,
    GENERATIVE_SPLIT: (GENERATIVE_SPLIT,),
    "attribute": ATTRIBUTES,
    **{split: (split,) for split in DISCRIMINATIVE_SPLITS},
}
LONGEST = {"amber": 16, "amber_generative": 512}  # new tokens


def load(data: Path, subset: str | None = None, images: Path | None = None) -> Benchmark:
    """Read the questions and annotations.

    Args:
        data: folder with `query_all.json` (also in `query/`), `annotations.json` and, for
            descriptions, `relation.json` and `safe_words.txt`; or its `annotations.json`.
        subset: `discriminative`, `generative`, `existence`, `attribute`, `relation`, `state`,
            `number` or `action`, several with commas; None takes all.
        images: folder of `AMBER_1.jpg` and so on; None is `images` beside the files.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: an unknown subset, or files that do not fit each other.
    """
    folder = data if data.is_dir() else data.parent
    annotations = _file(folder, "annotations.json") if data.is_dir() else data
    queries = _file(folder, "query_all.json", "query/query_all.json")
    wanted = _splits(subset)
    read = [annotations, queries]
    words = None
    if GENERATIVE_SPLIT in wanted:
        words, more = _associations(folder)
        read += more
    known = _by_id(annotations)
    items = []
    for number, query in _by_id(queries).items():
        if number not in known:
            raise ValueError(f"{annotations} has no id {number}, which {queries.name} asks")
        item = _item(number, query, known[number], words)
        if item.split in wanted:
            items.append(item)
    if not items:
        raise ValueError(f"{queries} asks nothing about {', '.join(sorted(wanted))}")
    return _benchmark(items, folder, read, subset, images)


def _benchmark(
    items: list[Item], folder: Path, read: list[Path], subset: str | None, images: Path | None
) -> Benchmark:
    """The chosen lines with their rules."""
    rules = {"amber": DISCRIMINATIVE, "amber_generative": GENERATIVE}
    keys = [key for key in rules if any(item.benchmark == key for item in items)]
    where = images or folder / "images"
    names = dict.fromkeys(item.image for item in items if item.image is not None)
    version = file_versions(read, folder)
    return Benchmark(
        name="amber",
        items=tuple(items),
        files={name: where / name for name in names},
        scorings={key: rules[key] for key in keys},
        longest={key: LONGEST[key] for key in keys},
        version=version if subset is None else {**version, "subset": subset},
        source=f"{len(items)} lines of AMBER on {len(names)} images from {folder}",
    )


def _splits(subset: str | None) -> frozenset[str]:
    """The splits that a subset names."""
    if subset is None:
        return frozenset(SPLIT_OF.values())
    names = [name.strip() for name in subset.split(",")]
    if unknown := [name for name in names if name not in SUBSETS]:
        raise ValueError(
            f"no subset {', '.join(map(repr, unknown))} of AMBER; there are {', '.join(SUBSETS)}"
        )
    return frozenset(split for name in names for split in SUBSETS[name])


def _item(number: int, query: Any, known: Any, words: Associations | None) -> Item:
    """One line of the query file with its annotation."""
    kind, truth = known.get("type"), known.get("truth")
    if not isinstance(kind, str) or kind not in SPLIT_OF:
        raise ValueError(f"type of id {number} is {kind!r}; AMBER has {', '.join(SPLIT_OF)}")
    if not isinstance(query.get("image"), str) or not isinstance(query.get("query"), str):
        raise ValueError(f"id {number} has no image or no query: {str(query)[:80]}")
    split = SPLIT_OF[kind]
    label = ""
    facts: dict[str, Any] = {"type": kind}
    if split != GENERATIVE_SPLIT:
        if truth not in ("yes", "no"):
            raise ValueError(f"truth of id {number} is {truth!r}; allowed: yes, no")
        label = truth
    elif words is not None:
        facts = {"type": kind, "words": words, **_objects(number, known, words)}
    key = KEYS.get(split, KEYS["discriminative"])
    return Item(f"amber/{number}", query["image"], query["query"], label, key, split, facts)


def _objects(number: int, known: Any, words: Associations) -> dict[str, Any]:
    """What is in an image, and what models like to see there."""
    found = {}
    for name in ("truth", "hallu"):
        objects = known.get(name)
        if not isinstance(objects, list):
            raise ValueError(f"{name} of id {number} is {str(objects)[:60]!r}, no list of objects")
        if unknown := [one for one in objects if str(one) not in words.related]:
            raise ValueError(f"{name} of id {number} holds {unknown[0]!r}, not in relation.json")
        found[name] = tuple(map(str, objects))
    return found


def _associations(folder: Path) -> tuple[Associations, list[Path]]:
    """AMBER's words, and the files they stand in."""
    related, safe = _file(folder, "relation.json"), _file(folder, "safe_words.txt")
    saved = _json(related)
    if not isinstance(saved, dict) or not all(isinstance(each, list) for each in saved.values()):
        raise ValueError(f"{related} is no {{word: [words]}}")
    lines = frozenset(safe.read_text(encoding="utf-8-sig").splitlines())
    words = {word: tuple(others) for word, others in saved.items()}
    return Associations(words, lines), [related, safe]


def _by_id(path: Path) -> dict[int, Any]:
    """The records of a file by id, in file order."""
    records = _json(path)
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise ValueError(f"{path} is no list of records")
    found: dict[int, Any] = {}
    for record in records:
        number = record.get("id")
        if not isinstance(number, int) or number in found:
            raise ValueError(f"{path} has the id {number!r}, which is no number or stands twice")
        found[number] = record
    return found


def _json(path: Path) -> Any:
    """The contents of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None


def _file(folder: Path, *names: str) -> Path:
    """The first of some files that is there."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{folder} lacks {names[0]}; AMBER's data/ folder holds annotations.json, "
            "query/query_all.json, relation.json and safe_words.txt"
        )
    return found
