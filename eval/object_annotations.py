"""Which objects are in which image: reading annotations.

In: JSON Lines or a JSON array of `{"image": ..., "objects": [...]}`, one JSON object of lists by
image name, or COCO's instances (`images`, `annotations`, `categories`). Out: the objects of each
image as a set, by file name. An object that is annotated twice is there once, and so is one that is
spelled with other capitals or white space: the spelling of most images counts for all.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lvlm_prune.eval.question_records import image_name, read_records, read_text, text_of

_INSTANCES = ("images", "annotations", "categories")


def read_annotations(path: Path) -> dict[str, frozenset[str]]:
    """The objects of each image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: none of the formats, a name that is no text of one line, or an image that
            appears twice.
    """
    text = read_text(path)
    try:
        whole = json.loads(text) if text.lstrip().startswith("{") else None
    except (json.JSONDecodeError, RecursionError):
        whole = None  # JSON Lines, or broken: read_records tells which
    if isinstance(whole, Mapping) and all(key in whole for key in _INSTANCES):
        return _spelled_alike(_instances(whole, str(path)))
    if isinstance(whole, Mapping) and "objects" not in whole:
        rows = [(f"{path}, image {image}", image, there) for image, there in whole.items()]
    else:
        rows = [
            (place, text_of(record, place, "image"), record.get("objects"))
            for place, record in read_records(path)
        ]
    scenes: dict[str, frozenset[str]] = {}
    for place, image, there in rows:
        if image in scenes:
            raise ValueError(f"{place} is about {image}, which appeared before")
        scenes[image_name(image, place)] = _names(there, place)
    return _spelled_alike(scenes)


def _names(there: Any, place: str) -> frozenset[str]:
    """Object names, single spaces between their words."""
    fine = isinstance(there, list) and all(isinstance(name, str) and name.strip() for name in there)
    if not fine:
        raise ValueError(f'{place} needs a list of names under "objects", got {there!r}')
    return frozenset(_name(name, place) for name in there)


def _name(text: str, place: str) -> str:
    """One name, which has to fit into a question."""
    if len(text.strip().splitlines()) > 1:
        raise ValueError(f"{place} has the object {text!r}; a name stands on one line")
    return " ".join(text.split())


def _spelled_alike(scenes: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Objects whose names differ in capitals alone under one name, that of most images."""
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for there in scenes.values():
        for name in there:
            spellings[name.casefold()][name] += 1
    # Small letters come last in the alphabet of code points, so they win where counts are equal.
    chosen = {
        folded: max(counts, key=lambda name: (counts[name], name))
        for folded, counts in spellings.items()
    }
    return {
        image: frozenset(chosen[name.casefold()] for name in there)
        for image, there in scenes.items()
    }


def _instances(whole: Mapping[str, Any], place: str) -> dict[str, frozenset[str]]:
    """The objects of COCO's instances."""
    try:
        names = {one["id"]: _name(str(one["name"]), place) for one in whole["categories"]}
        files = {one["id"]: str(one["file_name"]) for one in whole["images"]}
        found: dict[str, set[str]] = {image_name(file, place): set() for file in files.values()}
        for one in whole["annotations"]:
            found[files[one["image_id"]]].add(names[one["category_id"]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{place} is no file of COCO instances: {error!r} is missing") from error
    return {file: frozenset(there) for file, there in found.items()}
