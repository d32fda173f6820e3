"""CHAIR on COCO images: which objects does a caption make up (Rohrbach et al., arXiv 1809.02156).

In: the objects of each image, as a JSON file or to be found in a COCO annotations folder, where an
image holds what its instances and its five reference captions name. Out: one request for a caption
of each image, scored by `chair_scoring` with the words of `chair_words`. The request is the one in
use; there is no official list of images, so the list is part of the data and of its version.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.chair_scoring import chair_scoring, notes
from lvlm_prune.eval.chair_words import coco_vocabulary
from lvlm_prune.eval.data_version import file_version, file_versions

__all__ = ["REQUEST", "SCORING", "load", "notes"]

REQUEST = "Please describe this image in detail."
LONGEST = 512  # new tokens; 64 is the other length in use, and both numbers depend on it
PARTS = ("train", "val")
SCORING = chair_scoring("chair", coco_vocabulary(), lambda item: item.facts["objects"])


def load(data: Path, subset: str | None = None, images: Path | None = None) -> Benchmark:
    """Read the images and their objects.

    Args:
        data: JSON `{image: [objects]}`, an image by file name or COCO number, or a folder with
            COCO's `instances_{train,val}2014.json` and `captions_{train,val}2014.json`.
        subset: a text file of image names or COCO numbers, one a line; of a COCO folder also
            `train` or `val`. None takes all.
        images: folder of the images; None is `images` beside the JSON file, or the COCO folders
            `train2014` and `val2014` beside the annotations.

    Raises:
        FileNotFoundError: an annotations file, or the list of a subset, is absent.
        ValueError: a file that is not as it must be, an object that is not one of the 80, or an
            image in the list that has no objects.
    """
    if data.is_dir():
        found, read = _from_coco(data, PARTS if subset not in PARTS else (subset,))
        version = file_versions(read, data)
    else:
        found = _from_json(data)
        version = {data.name: file_version(data)}
    if subset is not None and not (data.is_dir() and subset in PARTS):
        found = _only(found, Path(subset))
        version["list"] = file_version(Path(subset))
    elif subset is not None:
        version["subset"] = subset
    items = tuple(_item(name, objects) for name, objects in found.items())
    return Benchmark(
        name="chair",
        items=items,
        files={item.image: _file(item.image, data, images) for item in items if item.image},
        scorings={"chair": SCORING},
        longest={"chair": LONGEST},
        version=version,
        source=f"{len(items)} images with their objects from {data.name}",
    )


def image_name(name: str) -> str:
    """File name of an image that is named by its COCO number; other names as they are."""
    return f"COCO_val2014_{int(name):012d}.jpg" if name.isdecimal() else name


def _item(name: str, objects: tuple[str, ...]) -> Item:
    """The request for one image."""
    facts = {"objects": objects}
    return Item(f"chair/{name}", image_name(name), REQUEST, "", "chair", "chair", facts)


def _file(image: str, data: Path, images: Path | None) -> Path:
    """Where an image is."""
    if images is not None:
        return images / image
    if data.is_dir():
        return data.parent / ("train2014" if "_train2014_" in image else "val2014") / image
    return data.parent / "images" / image


def _from_json(path: Path) -> dict[str, tuple[str, ...]]:
    """The objects of each image, in file order."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(saved, dict) or not saved:
        raise ValueError(f"{path} holds no {{image: [objects]}}, but {str(saved)[:60]!r}")
    return {name: _objects(path, name, objects) for name, objects in saved.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are different; JSON itself would keep the last of two."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"images stand twice in the file: {', '.join(twice[:5])}")
    return found


def _objects(path: Path, image: str, objects: object) -> tuple[str, ...]:
    """The objects of one image by CHAIR's names, sorted."""
    head = coco_vocabulary().head
    if not isinstance(objects, list) or any(not isinstance(name, str) for name in objects):
        raise ValueError(f"{path}: objects of {image} are {str(objects)[:60]}, not a list of words")
    if unknown := [name for name in objects if name not in head]:
        raise ValueError(
            f"{path}: {image} holds {', '.join(map(repr, unknown[:5]))}; CHAIR knows the 80 COCO "
            "objects and their synonyms (chair_synonyms.txt)"
        )
    return tuple(sorted({head[name] for name in objects}))


def _from_coco(folder: Path, parts: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], list[Path]]:
    """The objects of each image by file name, and which files said so."""
    found: dict[str, set[str]] = {}
    read = []
    for part in parts:
        paths = [folder / f"{kind}_{part}2014.json" for kind in ("instances", "captions")]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise FileNotFoundError(
                f"{folder} lacks {' and '.join(missing)}; CHAIR takes the objects of instances and "
                "reference captions together (annotations_trainval2014.zip of COCO)"
            )
        instances, captions = (json.loads(path.read_text(encoding="utf-8-sig")) for path in paths)
        try:
            found.update(_of_part(instances, captions))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{paths[0]} and {paths[1].name} are not COCO's: {error!r}") from error
        read += paths
    return {name: tuple(sorted(objects)) for name, objects in found.items()}, read


def _of_part(instances: Any, captions: Any) -> dict[str, set[str]]:
    """The objects of each image of one part: its instances, and what its captions name."""
    vocabulary = coco_vocabulary()
    names = {image["id"]: image["file_name"] for image in instances["images"]}
    category = {each["id"]: vocabulary.head[each["name"]] for each in instances["categories"]}
    found: dict[str, set[str]] = {name: set() for name in names.values()}
    for each in instances["annotations"]:
        found[names[each["image_id"]]].add(category[each["category_id"]])
    for each in captions["annotations"]:
        found[names[each["image_id"]]].update(vocabulary.mentions(each["caption"]))
    return found


def _only(found: Mapping[str, tuple[str, ...]], listed: Path) -> dict[str, tuple[str, ...]]:
    """The images of a list, in its order."""
    if not listed.is_file():
        raise FileNotFoundError(
            f"no subset {str(listed)!r} of CHAIR; pass a text file of image names or COCO numbers, "
            "one a line (or train or val with a COCO annotations folder)"
        )
    names = dict.fromkeys(filter(None, map(str.strip, listed.read_text("utf-8-sig").splitlines())))
    by_number: dict[str, list[str]] = {}
    for name in found:
        by_number.setdefault(_number(name), []).append(name)
    chosen = {
        name: name if name in found else next(iter(by_number.get(_number(name), [])), None)
        for name in names
    }
    if several := [n for n in names if n not in found and len(by_number.get(_number(n), [])) > 1]:
        raise ValueError(
            f"{listed}: {several[0]!r} may be {' or '.join(by_number[_number(several[0])])}; write "
            "the name as the labels have it"
        )
    if unknown := [name for name, own in chosen.items() if own is None]:
        raise ValueError(f"{listed}: no objects are known of {', '.join(unknown[:5])}")
    return {own: found[own] for own in chosen.values() if own is not None}


def _number(name: str) -> str:
    """COCO number of an image, which is what its file name ends in; other names as they are."""
    digits = Path(name).stem.rsplit("_", 1)[-1]
    return str(int(digits)) if digits.isdecimal() else name
