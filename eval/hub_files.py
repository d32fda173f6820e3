"""Rows as they stand on the hub, written as the files that a benchmark's own authors give out.

In: rows of a table on the hub, `image` as bytes, and an empty folder. Out: question files and
images in the official layout, so that one loader reads both, and a later run needs no network.
Images are written as they are, without decoding. Knows nothing of the network.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lvlm_prune.eval.question_records import image_name

Row = Mapping[str, Any]


def write_pope(rows: Iterable[Row], folder: Path) -> None:
    """POPE (`question_id, question, answer, image_source, image, category`) as its JSON Lines."""
    files: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        place = f"row {number} of POPE"
        image = _cell(row, place, "image_source")
        image = image if Path(image).suffix else f"{image}.jpg"
        own = files.setdefault(_cell(row, place, "category"), [])
        key = str(row.get("question_id", ""))
        record = {
            "question_id": int(key) if key.isdecimal() else len(own) + 1,
            "image": image,
            "text": _cell(row, place, "question"),
            "label": _cell(row, place, "answer"),
        }
        own.append(json.dumps(record))
        _write_image(folder / "images", image, row.get("image"), place)
    for split, lines in files.items():
        path = folder / f"coco_pope_{image_name(split, 'POPE')}.json"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_mme(rows: Iterable[Row], folder: Path) -> None:
    """MME (`question_id, image, question, answer, category`) as the eval tool's text files."""
    files: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        place = f"row {number} of MME"
        task = _cell(row, place, "category")
        image = _cell(row, place, "question_id").removeprefix(f"{task}/")
        cells = [image, _cell(row, place, "question"), _cell(row, place, "answer")]
        if any(mark in cell for cell in cells for mark in "\t\n"):
            raise ValueError(
                f"{place} has a tab or a line break, which MME's text files cannot hold"
            )
        files.setdefault(task, []).append("\t".join(cells))
        _write_image(folder / task, image, row.get("image"), place)
    for task, lines in files.items():
        text = "".join(f"{line}\n" for line in lines)
        (folder / f"{image_name(task, 'MME')}.txt").write_text(text, encoding="utf-8")


def write_hallusionbench(rows: Iterable[Row], folder: Path) -> None:
    """HallusionBench (its own keys, and `image`) as HallusionBench.json with its figures."""
    records = []
    for number, row in enumerate(rows, 1):
        place = f"row {number} of HallusionBench"
        record = {name: value for name, value in row.items() if name != "image"}
        if row.get("image") is not None:
            file = _cell(row, place, "filename").removeprefix("./").removeprefix("hallusion_bench/")
            _write_image(folder / "hallusion_bench", file, row["image"], place)
        records.append(record)
    text = json.dumps(records, ensure_ascii=False)
    (folder / "HallusionBench.json").write_text(text, encoding="utf-8")


def write_mmvp(rows: Iterable[Row], folder: Path) -> None:
    """MMVP (`Index, Question, Options, Correct Answer, image`, any case) as Questions.csv."""
    lines = []
    for number, row in enumerate(rows, 1):
        place = f"row {number} of MMVP"
        cells = {name.lower(): value for name, value in row.items()}
        index = _cell(cells, place, "index", "idx")
        options = cells.get("options")
        if isinstance(options, list | tuple):
            options = " ".join(
                f"({letter}) {each}" for letter, each in zip("ab", options, strict=True)
            )
        answer = _cell(cells, place, "correct answer", "answer")
        lines.append([index, _cell(cells, place, "question"), str(options), answer])
        _write_image(folder / "MMVP Images", f"{index}.jpg", cells.get("image"), place)
    with (folder / "Questions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["Index", "Question", "Options", "Correct Answer"], *lines])


def _cell(row: Row, place: str, *names: str) -> str:
    """The text of the first of some columns."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if value is None or not str(value).strip():
        raise ValueError(f"{place} has no {' or '.join(names)}, only {', '.join(row)}")
    return str(value)


def _write_image(folder: Path, name: str, image: Any, place: str) -> None:
    """Write an image unless an earlier row has."""
    path = folder / image_name(name, place)
    if path.exists():
        return
    found = image if isinstance(image, Mapping) else {}
    content, source = found.get("bytes"), found.get("path")
    if not content and source and Path(source).is_file():
        content = Path(source).read_bytes()
    if not isinstance(content, bytes) or not content:
        raise ValueError(f"{place} has no image bytes for {name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
