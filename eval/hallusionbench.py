"""HallusionBench's questions (Guan et al., CVPR 2024, arXiv 2310.14566).

In: HallusionBench.json, 1,129 yes/no questions in 167 sets, and a folder of 346 figures; 178
questions have none. Out: a `Benchmark`. A set asks the same questions about an original figure and
edited ones, or without any, so a set stays together. How answers are read and counted is
`hallusionbench_scoring`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.data_version import file_version
from lvlm_prune.eval.hallusionbench_scoring import SCORING
from lvlm_prune.eval.question_records import Record, image_name, read_records

__all__ = ["SCORING", "load"]
FILE = "HallusionBench.json"
NAMED = ("category", "subcategory", "set_id", "figure_id", "question_id")
NEEDED = (*NAMED, "visual_input", "question", "gt_answer")
LONGEST = 16  # new tokens; the first word decides


def load(data: Path, subset: str | None = None, images: Path | None = None) -> Benchmark:
    """Read the questions.

    Args:
        data: HallusionBench.json, or the folder that holds it.
        subset: `image` or `text` (with and without a figure), `VD`, `VS`, or subcategories such as
            `chart`, separated by commas; a line must fit all kinds of names. None takes all.
        images: folder of the figures, with `VD/` and `VS/` inside; None is `hallusion_bench` or
            the folder beside the file.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: a broken record, a question that appears twice, or an unknown subset.
    """
    path = data / FILE if data.is_dir() else data
    if not path.is_file():
        raise FileNotFoundError(f"{path} is absent; pass {FILE} or the folder that holds it")
    items = [_item(record, place) for place, record in read_records(path)]
    twice = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(twice[:5])} appear more than once in {path}")
    folder = images or path.parent
    items = list(_chosen(items, subset))
    nested = folder / "hallusion_bench"
    root = nested if nested.is_dir() else folder
    return Benchmark(
        name="hallusionbench",
        items=tuple(items),
        files={item.image: root / item.image for item in items if item.image is not None},
        scorings={"hallusionbench": SCORING},
        longest={"hallusionbench": LONGEST},
        version={path.name: file_version(path), "subset": subset or "all"},
        source=f"{len(items)} questions of HallusionBench from {path}, read by string match",
    )


def _item(record: Record, place: str) -> Item:
    """One question."""
    if missing := [key for key in NEEDED if key not in record]:
        raise ValueError(f"{place} has no {', '.join(missing)}")
    label = {"1": "yes", "0": "no"}.get(str(record["gt_answer"]))
    if label is None:
        raise ValueError(f"gt_answer of {place} is {record['gt_answer']!r}; allowed: 0, 1")
    parts = {key: str(record[key]) for key in NAMED}
    file = record.get("filename")
    return Item(
        id="/".join(("hallusionbench", *parts.values())),
        image=None if not file else _figure_name(image_name(str(file), place)),
        question=str(record["question"]),
        label=label,
        benchmark="hallusionbench",
        split=parts["category"],
        facts={
            **parts,
            "visual_input": str(record["visual_input"]),
            "set": "/".join(parts[key] for key in NAMED[:3]),
        },
    )


def _figure_name(file: str) -> str:
    """`VD/ocr/0_1.png`, also where the file writes `./hallusion_bench/VD/ocr/0_1.png`."""
    return file.replace("\\", "/").removeprefix("./").removeprefix("hallusion_bench/")


def _chosen(items: Sequence[Item], subset: str | None) -> Iterator[Item]:
    """The lines of a subset."""
    names = set() if subset is None else {name.strip() for name in subset.split(",")}
    kinds = {
        "figure": ("image", "text"),
        "category": tuple(dict.fromkeys(item.split for item in items)),
        "subcategory": tuple(dict.fromkeys(str(item.facts["subcategory"]) for item in items)),
    }
    allowed = [name for known in kinds.values() for name in known]
    if unknown := sorted(names.difference(allowed)):
        raise ValueError(
            f"no subset {', '.join(unknown)!r} of HallusionBench; there are {', '.join(allowed)}"
        )
    for item in items:
        own = ("text" if item.image is None else "image", item.split, item.facts["subcategory"])
        wanted = [names.intersection(known) for known in kinds.values()]
        if all(name in want or not want for name, want in zip(own, wanted, strict=True)):
            yield item
