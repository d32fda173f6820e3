"""MMVP: two-way choices on pairs of images that CLIP takes for the same (arXiv 2401.06209).

In: Questions.csv (`Index, Question, Options, Correct Answer`), 300 lines of which 1 and 2, 3 and 4
and so on are pairs: the same question about two images, with opposite answers. Out: a `Benchmark`.
A question is asked as its authors ask it, `Question + " " + Options`. How answers are read and
counted is `mmvp_scoring`.

The answers of two pairs are swapped in the original file: images 99 and 100 (which elephant has
short tusks) and 279 and 280 (who sits). They are corrected unless the subset `original` is asked
for; a file in which they are right already stays as it is.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.data_version import file_version
from lvlm_prune.eval.mmvp_scoring import SCORING
from lvlm_prune.eval.question_records import read_text

__all__ = ["CORRECTED", "SCORING", "load"]

FILE = "Questions.csv"
FOLDER = "MMVP Images"
COLUMNS = ("Index", "Question", "Options", "Correct Answer")
CORRECTED = {99: "b", 100: "a", 279: "b", 280: "a"}
ORIGINAL = "original"
LONGEST = 16  # new tokens


def load(data: Path, subset: str | None = None, images: Path | None = None) -> Benchmark:
    """Read the questions.

    Args:
        data: Questions.csv, or the folder that holds it.
        subset: `original` leaves the answers of the two corrected pairs as they are in the file.
        images: folder with 1.jpg to 300.jpg; None is `MMVP Images` beside the file.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: no table of questions, or a broken line.
    """
    path = data / FILE if data.is_dir() else data
    if not path.is_file():
        raise FileNotFoundError(f"{path} is absent; pass {FILE} or the folder that holds it")
    if subset not in (None, ORIGINAL):
        raise ValueError(
            f"no subset {subset!r} of MMVP; the only one is {ORIGINAL!r}, the answers as in the "
            "file, without the two pairs that were corrected"
        )
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path)), strict=True))
    except csv.Error as error:
        raise ValueError(f"{path} is no table of questions: {error}") from error
    items = [_item(row, f"row {number} of {path}", subset) for number, row in enumerate(rows, 1)]
    twice = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if twice or not items:
        named = ", ".join(twice[:5])
        raise ValueError(
            f"{named} appear more than once in {path}" if twice else f"{path} is empty"
        )
    answers = "original" if subset else "corrected"
    folder = images or path.parent / FOLDER
    return Benchmark(
        name="mmvp",
        items=tuple(items),
        files={item.image: folder / item.image for item in items if item.image is not None},
        scorings={"mmvp": SCORING},
        longest={"mmvp": LONGEST},
        version={path.name: file_version(path), "answers": answers},
        source=f"{len(items)} questions of MMVP from {path}, {answers} answers",
    )


def _item(row: Mapping[str, object], place: str, subset: str | None) -> Item:
    """One question."""
    if missing := [name for name in COLUMNS if not str(row.get(name) or "").strip()]:
        raise ValueError(f"{place} has no {', '.join(missing)}")
    number, question, options, answer = (str(row[name]).strip() for name in COLUMNS)
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"Index of {place} is {number!r}; allowed: 1, 2, 3 and so on")
    label = answer.lower().strip("()")
    if label not in ("a", "b"):
        raise ValueError(f"Correct Answer of {place} is {answer!r}; allowed: (a), (b)")
    index = int(number)
    if subset is None:
        label = CORRECTED.get(index, label)
    return Item(
        id=f"mmvp/{index}",
        image=f"{index}.jpg",
        question=f"{question} {options}",
        label=label,
        benchmark="mmvp",
        split="mmvp",
        facts={"pair": (index + 1) // 2, "options": options},
    )
