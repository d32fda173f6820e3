"""Reading POPE's question files (RUCAIBox/POPE, `output/`; VCD's copies; one's own).

In: a question file, or a folder with `coco_pope_random.json` and its like anywhere below it, as
JSON Lines (coco) or a JSON array (aokvqa, gqa). Out: a `Benchmark` of one source, its splits in
their usual order. POPE's questions about COCO changed after they were published: until August 2023
`random` had 2,910 lines, and names that begin with a vowel were asked for "in the imange". Files of
that kind are `legacy`, are read where nothing else is there or where they are asked for, and are
named in `Benchmark.version`. A question that stands in a file twice is two lines.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.data_version import file_version
from lvlm_prune.eval.pope_scoring import SCORING
from lvlm_prune.eval.question_records import image_name, label_of, read_records, text_of

SPLITS = ("random", "popular", "adversarial")
SOURCES = ("coco", "aokvqa", "gqa")
LONGEST = 128  # new tokens of an answer, as in LLaVA's and lmms-eval's POPE
LEGACY_LINES = 2910
_NAME = re.compile(rf"(?:(.+)_)?pope_(?:seem_)?({'|'.join(SPLITS)})\.jsonl?")
_IMAGES = ("images", "val2014", "images/val2014", "coco/val2014", "{source}/images", "")


@dataclass(frozen=True)
class QuestionFile:
    """One split of one source.

    Args:
        path: the file.
        source: `coco`, `aokvqa`, `gqa`, or what stands before `_pope_` in the file name.
        split: `random`, `popular`, `adversarial`, or the name of a file that says none of them.
        items: its lines.
        legacy: whether these are the questions of before August 2023.
    """

    path: Path
    source: str
    split: str
    items: tuple[Item, ...]
    legacy: bool


def load(data: Path, subset: str | None = None, images: Path | None = None) -> Benchmark:
    """Read POPE.

    Args:
        data: a question file, or a folder that holds some.
        subset: a source, a split, `legacy`, or several of these with slashes, such as
            `coco/random`; None is coco where the folder has it, with all its splits.
        images: folder of the image files; if not given, `images` or `val2014` beside the questions.

    Raises:
        FileNotFoundError: no question file there, or none of this subset.
        ValueError: a broken file, an unknown subset, or different files for the same split.
    """
    data = Path(data)
    if not data.exists():
        raise FileNotFoundError(f"there is no {data}; POPE's question files are expected there")
    paths = [data] if data.is_file() else sorted(_question_files(data))
    if not paths:
        raise FileNotFoundError(
            f"no question file such as coco_pope_random.json below {data}; POPE's stand in "
            "github.com/RUCAIBox/POPE under output/"
        )
    files = _chosen(paths, subset)
    items = tuple(item for file in files for item in file.items)
    source = files[0].source
    names = list(dict.fromkeys(item.image for item in items if item.image is not None))
    folder = _image_folder(data.parent if data.is_file() else data, source, images, names[0])
    lines = ", ".join(f"{file.split} {len(file.items)}" for file in files)
    return Benchmark(
        name="pope",
        items=items,
        files={name: folder / name for name in names},
        scorings={"pope": SCORING},
        longest={"pope": LONGEST},
        version=_version(files),
        source=f"POPE {source} ({lines} questions about {len(names)} images) from {data}",
    )


def read_file(path: Path) -> QuestionFile:
    """Read one question file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line that is no question, or a question id that appears twice.
    """
    source, split = _source_and_split(path)
    items: dict[str, Item] = {}
    for number, (place, record) in enumerate(read_records(path), 1):
        key = record.get("question_id", number)
        item = Item(
            id=f"pope/{split}/{key}",
            image=image_name(text_of(record, place, "image"), place),
            question=text_of(record, place, "text", "question"),
            label=label_of(text_of(record, place, "label", "answer"), place),
            benchmark="pope",
            split=split,
            facts={"source": source, "question_id": key},
        )
        if item.id in items:
            raise ValueError(f"{place} has the question id {key!r}, which an earlier line has too")
        items[item.id] = item
    legacy = any("imange" in item.question for item in items.values())
    legacy |= (source, split, len(items)) == ("coco", "random", LEGACY_LINES)
    return QuestionFile(path, source, split, tuple(items.values()), legacy)


def _question_files(folder: Path) -> Iterable[Path]:
    """The files below a folder that are named like POPE's."""
    return (path for path in folder.rglob("*pope_*.json*") if _NAME.fullmatch(path.name))


def _source_and_split(path: Path) -> tuple[str, str]:
    """What a file name says; the stem is the split where it says none."""
    named = _NAME.fullmatch(path.name)
    if named is None:
        found = re.search("|".join(SPLITS), path.stem)
        return "own", found.group() if found else path.stem
    source = named.group(1) or "own"
    known = (each for each in SOURCES if source.split("_")[-1] == each)
    return next(known, source), named.group(2)


def _chosen(paths: Sequence[Path], subset: str | None) -> list[QuestionFile]:
    """The files of one source, at most one a split."""
    words = subset.split("/") if subset else []
    known = {path: _source_and_split(path) for path in paths}
    sources, splits = (list(dict.fromkeys(named)) for named in zip(*known.values(), strict=True))
    for word in words:
        if word not in {*sources, *splits, *SOURCES, *SPLITS, "legacy"}:
            allowed = ", ".join([*sources, *splits, "legacy", f"{sources[0]}/{splits[0]}"])
            raise ValueError(f"no POPE subset {subset!r}; here are {allowed}")
    named = [word for word in words if word in {*sources, *SOURCES}]
    asked = [word for word in words if word in {*splits, *SPLITS}]
    if not named and len(sources) > 1:
        if "coco" not in sources:
            raise ValueError(f"there are questions of {', '.join(sources)}; name one as the subset")
        named = ["coco"]
    files = [
        read_file(path)
        for path, (source, split) in known.items()
        if (not named or source in named) and (not asked or split in asked)
    ]
    files = [file for file in files if file.legacy or "legacy" not in words]
    if not files:
        raise FileNotFoundError(f"no question file of the subset {subset!r}, only {_names(paths)}")
    order = sorted({file.split: None for file in files}, key=(*SPLITS, *splits).index)
    return [_only([file for file in files if file.split == split]) for split in order]


def _only(files: list[QuestionFile]) -> QuestionFile:
    """The one file of a split: the current questions, unless there are only legacy ones."""
    best = [file for file in files if not file.legacy] or files
    if any(file.items != best[0].items for file in best):
        paths = _names([file.path for file in best])
        raise ValueError(f"different questions of {best[0].split}: {paths}; pass one of them")
    return best[0]


def _names(paths: Sequence[Path]) -> str:
    """Files, for an error."""
    return ", ".join(map(str, paths))


def _version(files: Sequence[QuestionFile]) -> dict[str, str]:
    """What was read, so that runs over other questions are told apart."""
    kinds = {file.split: "legacy" if file.legacy else "current" for file in files}
    mixed = ", ".join(f"{split} {kind}" for split, kind in kinds.items())
    return {
        **{file.path.name: file_version(file.path) for file in files},
        "subset": f"{files[0].source}/{'+'.join(kinds)}",
        "edition": mixed if len(set(kinds.values())) > 1 else next(iter(kinds.values())),
    }


def _image_folder(root: Path, source: str, images: Path | None, name: str) -> Path:
    """The folder that holds the first image, or else where it should be."""
    start = root if images is None else Path(images)
    places = _IMAGES if images is None else ("", *_IMAGES)
    folders = [start / place.format(source=source) for place in places]
    return next((folder for folder in folders if (folder / name).is_file()), folders[0])
