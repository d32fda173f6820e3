"""Do-You-See-Me: questions about drawn 2D and rendered 3D figures (arXiv 2506.02022).

In: a folder for each dimension with dataset_info.csv (`filename, question, answer, sweep`) and its
images. Out: a `Benchmark`; a dimension is a split. Where a table has no column `question`, all its
lines share the question that the project's own README gives for the dimension. Names of drawings
(.svg) stand for the pictures beside them (.png). How answers are scored is `do_you_see_me_scoring`,
since the repository holds no scorer.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.data_version import file_versions
from lvlm_prune.eval.do_you_see_me_scoring import NAME, SCORING
from lvlm_prune.eval.question_records import image_name, read_text

__all__ = ["SCORING", "load"]

FILE = "dataset_info.csv"
LONGEST = 32  # new tokens; up to nine letters are read one by one
_OPTION = "Respond as follows: Option <your answer (choose between 1, 2, 3, or 4)>."
QUESTIONS = {
    "visual_figure_ground": "The figure consists of a Target image, which is embedded in some "
    "background noise. Out of the four given options, your task is to pick the option which has "
    f"the same figure as the target image. {_OPTION}",
    "visual_form_constancy": "The figure consists of a Target image. Out of the four given "
    "options, your task is to pick the option which has the same figure as the target image. "
    f"{_OPTION}",
    "visual_closure": "The figure consists of a target image which is complete, Out of the four "
    "given options (which are partially complete), your task is to pick the option which when "
    f"completed matches the target image. {_OPTION}",
    "letter_disambiguation": "The image shows one or more letters formed by a grid of small "
    "squares. What letter(s) can you identify in this image? Please respond with only the "
    "letter(s) you see.",
}


def load(data: Path, subset: str | None = None, images: Path | None = None) -> Benchmark:
    """Read the dimensions below a folder.

    Args:
        data: a folder with dimensions at any depth, one dimension, or its dataset_info.csv.
        subset: `2D`, `3D`, or dimensions (names of folders), separated by commas; None takes all.
        images: folder with a folder of images for each dimension; None is beside the tables.

    Raises:
        FileNotFoundError: no table of questions.
        ValueError: a broken table, a dimension that is there twice, or an unknown subset.
    """
    tables = _tables(data)
    chosen = _chosen(tables, subset)
    items: list[Item] = []
    files: dict[str, Path] = {}
    for dimension, path in chosen.items():
        folder = path.parent if images is None else images / dimension
        for item in _items(dimension, path):
            items.append(item)
            if item.image is not None:
                files[item.image] = folder / item.image.removeprefix(f"{dimension}/")
    root = data if data.is_dir() else data.parent
    return Benchmark(
        name=NAME,
        items=tuple(items),
        files=files,
        scorings={NAME: SCORING},
        longest={NAME: LONGEST},
        version={**file_versions(chosen.values(), root), "subset": subset or "all"},
        source=f"{len(items)} questions of {len(chosen)} dimensions of Do-You-See-Me from {data}",
    )


def _tables(data: Path) -> dict[str, Path]:
    """The table of each dimension."""
    found = sorted(data.rglob(FILE)) if data.is_dir() else [data]
    if not found or not found[0].is_file():
        raise FileNotFoundError(f"{data} holds no {FILE}; pass a folder with one a dimension")
    tables: dict[str, Path] = {}
    for path in found:
        name = path.resolve().parent.name
        if name in tables:
            raise ValueError(f"{name} is in {tables[name].parent} and {path.parent}; pass one")
        tables[name] = path
    return tables


def _chosen(tables: Mapping[str, Path], subset: str | None) -> dict[str, Path]:
    """The tables of a subset."""
    if subset is None:
        return dict(tables)
    names = {name.strip() for name in subset.split(",")}
    if unknown := sorted(names.difference(("2D", "3D", *tables))):
        raise ValueError(
            f"no subset {', '.join(unknown)!r} of {NAME}; there are 2D, 3D, {', '.join(tables)}"
        )
    kept = {name: path for name, path in tables.items() if {name, _space(name)} & names}
    if not kept:
        raise ValueError(f"no dimension of {subset!r} here; there are {', '.join(tables)}")
    return kept


def _space(dimension: str) -> str:
    """2D or 3D, by the name of the folder."""
    return "3D" if dimension.startswith("3D") else "2D"


def _items(dimension: str, path: Path) -> Iterator[Item]:
    """The questions of one dimension."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path)), strict=True))
    except csv.Error as error:
        raise ValueError(f"{path} is no table of questions: {error}") from error
    for number, row in enumerate(rows, 1):
        cells = {name: (row.get(name) or "").strip() for name in ("filename", "answer", "sweep")}
        question = (row.get("question") or QUESTIONS.get(dimension, "")).strip()
        found = {**cells, "question": question}
        if missing := [name for name in ("filename", "question", "answer") if not found[name]]:
            raise ValueError(f"line {number} of {path} has no {', '.join(missing)}")
        image = image_name(cells["filename"], f"line {number} of {path}")
        if image.endswith(".svg"):
            image = f"{image.removesuffix('.svg')}.png"
        yield Item(
            id=f"{NAME}/{dimension}/{number}",
            image=f"{dimension}/{image}",
            question=question,
            label=cells["answer"],
            benchmark=NAME,
            split=dimension,
            facts={"filename": cells["filename"], "sweep": cells["sweep"]},
        )
