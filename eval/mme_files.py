"""Reading MME in the layouts it comes in; none of it is bundled, as its terms forbid that.

In: one of

- the release: a folder for each task, holding images and a text file for each image (or `images/`
  and `questions_answers_YN/`), lines `question<TAB>answer`;
- the eval tool's text files, `<task>.txt`, lines `image<TAB>question<TAB>answer` and whatever a
  model said after that, which is not read here;
- parquet files as on the hub (`mme_parquet`).

Out: a `Benchmark` whose lines have the same ids in all layouts. Images are named by task, such as
`code_reasoning/0020.png`, as names recur between tasks; the images from COCO, whose names are its
twelve-digit ids, go by these alone, so that the 110 of the hallucination subset are 110.
`Benchmark.version` is a hash of each task's questions, not of files, for the same reason.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.data_version import DIGITS
from lvlm_prune.eval.mme_scoring import COGNITION, HALLUCINATION, PERCEPTION, SCORING, TASKS
from lvlm_prune.eval.question_records import image_name, label_of, read_text

LONGEST = 16  # new tokens of an answer, as in lmms-eval's MME
GROUPS = {"perception": PERCEPTION, "cognition": COGNITION, "hallucination": HALLUCINATION}
_NESTED = ("", "MME_Benchmark_release_version", "MME_Benchmark_release_version/MME_Benchmark")
_COCO = re.compile(r"\d{12}\.jpg")
_SUFFIXES = (".jpg", ".png", ".jpeg")
_ELSEWHERE = ("{0}/images/{1}", "{0}/{1}", "images/{0}/{1}", "images/{1}", "{1}")
_AS_COCO = tuple(
    f"{folder}COCO_{split}_{{1}}"
    for split in ("val2014", "train2014")
    for folder in ("", f"{split}/")
)


@dataclass(frozen=True)
class Line:
    """A question of any layout.

    Args:
        task: such as `existence`.
        image: file name.
        question: as the file has it.
        label: `yes` or `no`.
        file: the image, where the layout says where it is; it may not exist.
    """

    task: str
    image: str
    question: str
    label: str
    file: Path | None = None


def load(data: Path, subset: str | None = None, images: Path | None = None) -> Benchmark:
    """Read MME.

    Args:
        data: the release, a folder of text files, one of these, or parquet files or their folder.
        subset: `hallucination`, `perception`, `cognition`, a task, or several with commas; None is
            all tasks that are there.
        images: folder of the images of text files, by task or all in one, COCO's under their own
            names too; for parquet files, where their images are written.

    Raises:
        FileNotFoundError: none of the layouts is there, or a task of the subset is missing.
        ValueError: a broken file or an unknown subset.
        ImportError: parquet files without the package that reads them.
    """
    data = Path(data)
    wanted = _tasks(subset)
    lines = list(_lines(data, wanted, None if images is None else Path(images)))
    found = {line.task for line in lines}
    missing = [task for task in wanted if task not in found]
    if missing and subset is not None or not found:
        raise FileNotFoundError(f"{data} lacks MME's {', '.join(missing)}")
    return from_lines(lines, _source(lines, missing, data))


def from_lines(lines: Sequence[Line], source: str) -> Benchmark:
    """A benchmark of questions whose images were found.

    Args:
        lines: of any number of tasks, those of a task in order.
        source: one sentence, where they are from.
    """
    order = sorted(lines, key=lambda line: TASKS.index(line.task))
    items: list[Item] = []
    files: dict[str, Path] = {}
    asked: Counter[tuple[str, str]] = Counter()
    for line in order:
        asked[line.task, line.image] += 1
        number = asked[line.task, line.image]
        name = line.image if _COCO.fullmatch(line.image) else f"{line.task}/{line.image}"
        key = f"mme/{line.task}/{line.image}/{number}"
        items.append(Item(key, name, line.question, line.label, "mme", line.task))
        if name not in files or (line.file is not None and not files[name].exists()):
            files[name] = line.file or Path(name)
    return Benchmark(
        name="mme",
        items=tuple(items),
        files=files,
        scorings={"mme": SCORING},
        longest={"mme": LONGEST},
        version=_version(items),
        source=source,
    )


def _lines(data: Path, wanted: Sequence[str], images: Path | None) -> Iterable[Line]:
    """The questions of the first layout that is there."""
    if data.is_file() and data.suffix == ".txt":
        return _of_text(data, data.parent if images is None else images)
    if data.is_file() and data.suffix == ".parquet":
        return _of_parquet([data], wanted, images)
    for folder in (data / nested for nested in _NESTED):
        texts = [folder / f"{task}.txt" for task in wanted if (folder / f"{task}.txt").is_file()]
        if texts:
            start = folder if images is None else images
            return (line for text in texts for line in _of_text(text, start))
        tasks = [task for task in wanted if (folder / task).is_dir()]
        if tasks:
            return (line for task in tasks for line in _of_release(folder / task, images))
    tables = sorted(data.rglob("*.parquet")) if data.is_dir() else []
    if tables:
        return _of_parquet(tables, wanted, images)
    raise FileNotFoundError(
        f"{data} holds no MME: neither folders nor text files named {', '.join(wanted)}, nor "
        "parquet files. MME is asked for at github.com/BradyFU/Awesome-Multimodal-Large-Language-"
        "Models (branch Evaluation)"
    )


def _of_text(path: Path, images: Path) -> Iterator[Line]:
    """The questions of one text file of the eval tool."""
    if path.stem not in TASKS:
        raise ValueError(f"{path} is named after none of MME's tasks: {', '.join(TASKS)}")
    for place, cells in _cells(path, 3):
        image = image_name(cells[0], place)
        file = image_file(images, path.stem, image)
        yield Line(path.stem, image, cells[1], label_of(cells[2], place), file)


def _of_release(folder: Path, images: Path | None) -> Iterator[Line]:
    """The questions of one task of the release, by the name of their image."""
    texts = folder / "questions_answers_YN"
    for path in sorted((texts if texts.is_dir() else folder).glob("*.txt")):
        places = (folder / "images", folder) if images is None else (images,)
        beside = (where / f"{path.stem}{suffix}" for where in places for suffix in _SUFFIXES)
        suffix = ".png" if folder.name == "code_reasoning" else ".jpg"
        file = next((each for each in beside if each.is_file()), None)
        image = f"{path.stem}{suffix}" if file is None else file.name
        if file is None:
            file = image_file(images or folder.parent, folder.name, image)
        for place, cells in _cells(path, 2):
            yield Line(folder.name, image, cells[0], label_of(cells[1], place), file)


def _of_parquet(paths: Sequence[Path], wanted: Sequence[str], images: Path | None) -> list[Line]:
    """The questions of parquet files, whose images are written to a folder."""
    from lvlm_prune.eval.mme_parquet import read_parquet

    return read_parquet(paths, wanted, paths[0].parent / "images" if images is None else images)


def _cells(path: Path, least: int) -> Iterator[tuple[str, list[str]]]:
    """The cells of each line that is not empty, with its place."""
    for number, text in enumerate(read_text(path).split("\n"), 1):
        place = f"{path}, line {number}"
        cells = text.split("\t")
        if text.strip() and len(cells) < least:
            raise ValueError(
                f"{place} has {len(cells)} columns between tabs, not {least}: {text!r}"
            )
        if text.strip():
            yield place, cells


def image_file(folder: Path, task: str, image: str) -> Path:
    """Where an image is below a folder, or else where it should be."""
    shapes = (*_ELSEWHERE, *_AS_COCO) if _COCO.fullmatch(image) else _ELSEWHERE
    files = [folder / shape.format(task, image) for shape in shapes]
    return next((file for file in files if file.is_file()), files[0])


def _tasks(subset: str | None) -> list[str]:
    """The tasks of a subset, in MME's order."""
    if subset is None:
        return list(TASKS)
    asked: set[str] = set()
    for word in subset.split(","):
        if word not in GROUPS and word not in TASKS:
            allowed = ", ".join([*GROUPS, *TASKS])
            raise ValueError(f"no MME subset {word!r}; allowed: {allowed}")
        asked |= set(GROUPS.get(word, (word,)))
    return [task for task in TASKS if task in asked]


def _version(items: Sequence[Item]) -> dict[str, str]:
    """A hash of the questions of each task, whatever files they came from."""
    tasks: dict[str, list[str]] = {}
    for item in items:
        image = item.id.split("/", 2)[2]
        tasks.setdefault(item.split, []).append(f"{image}\t{item.question}\t{item.label}\n")
    hashes = {
        task: hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:DIGITS]
        for task, lines in tasks.items()
    }
    return {**hashes, "subset": ",".join(tasks)}


def _source(lines: Sequence[Line], missing: Sequence[str], data: Path) -> str:
    """One sentence."""
    tasks = len({line.task for line in lines})
    lacking = f" without {', '.join(missing)}" if missing else ""
    return f"MME ({len(lines)} questions of {tasks} tasks{lacking}) from {data}"
