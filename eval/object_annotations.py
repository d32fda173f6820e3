"""Which objects are in which image: reading annotations.

In: JSON Lines or a JSON array of `{"image": ..., "objects": [...]}`, one JSON object of lists by
image name, or COCO's instances (`images`, `annotations`, `categories`). Out: the objects of each
image as a set, by file name. An object that is annotated twice is there once.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lvlm_prune.eval.question_records import image_name, read_records, read_text, text_of

_INSTANCES = ("images", "annotations", "categories")


def read_annotations(path: Path) -> dict[str, frozenset[str]]:
    """The objects of each image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: none of the formats, a name that is no text, or an image that appears twice.
    """
    text = read_text(path)
    try:
        whole = json.loads(text) if text.lstrip().startswith("{") else None
    except (json.JSONDecodeError, RecursionError):
        whole = None  # JSON Lines, or broken: read_records tells which
    if isinstance(whole, Mapping) and all(key in whole for key in _INSTANCES):
        return _instances(whole, str(path))
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
    return scenes


def _names(there: Any, place: str) -> frozenset[str]:
    """Object names without white space at their ends."""
    fine = isinstance(there, list) and all(isinstance(name, str) and name.strip() for name in there)
    if not fine:
        raise ValueError(f'{place} needs a list of names under "objects", got {there!r}')
    return frozenset(name.strip() for name in there)


def _instances(whole: Mapping[str, Any], place: str) -> dict[str, frozenset[str]]:
    """The objects of COCO's instances."""
    try:
        names = {one["id"]: str(one["name"]) for one in whole["categories"]}
        files = {one["id"]: str(one["file_name"]) for one in whole["images"]}
        found: dict[str, set[str]] = {image_name(file, place): set() for file in files.values()}
        for one in whole["annotations"]:
            found[files[one["image_id"]]].add(names[one["category_id"]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{place} is no file of COCO instances: {error!r} is missing") from error
    return {file: frozenset(there) for file, there in found.items()}
