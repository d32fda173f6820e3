"""Which images are not there, before a run begins instead of in its middle.

In: a `Benchmark`. Out: the names of images without a file, a sentence or a list of them, and where
the official ones come from. Most benchmarks need a few hundred files of COCO's 123,287, and COCO
serves each of them by name, so nobody has to download its archives. Whether a file can be decoded
is found when it is read.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lvlm_prune.eval.benchmark import Benchmark
from lvlm_prune.eval.benchmarks import BENCHMARKS

NAMED = 10  # that a message names
COCO = "http://images.cocodataset.org"
_COCO_2014 = re.compile(r"(?:.*/)?(COCO_(val|train)2014_\d{12}\.jpg)")
_COCO_2017 = re.compile(r"(?:.*/)?(\d{12}\.jpg)")


class MissingImagesError(FileNotFoundError):
    """Images of a benchmark are missing.

    Args:
        benchmark: whose images.
        missing: their names.
    """

    def __init__(self, benchmark: Benchmark, missing: Sequence[str]) -> None:
        self.missing = list(missing)
        super().__init__(_message(benchmark, self.missing))


def missing_images(benchmark: Benchmark) -> list[str]:
    """Names of the images without a file, in the order of first use."""
    return [
        name
        for name in benchmark.images
        if name not in benchmark.files or not benchmark.files[name].is_file()
    ]


def check_images(benchmark: Benchmark) -> None:
    """Refuse a benchmark whose images are not all there.

    Raises:
        MissingImagesError: it names them, and where they come from.
    """
    if missing := missing_images(benchmark):
        raise MissingImagesError(benchmark, missing)


def addresses(name: str) -> list[str]:
    """Where a COCO image can be had by its name; a name without a year may be in either part."""
    if found := _COCO_2014.fullmatch(name):
        return [f"{COCO}/{found.group(2)}2014/{found.group(1)}"]
    if found := _COCO_2017.fullmatch(name):
        return [f"{COCO}/{part}2017/{found.group(1)}" for part in ("val", "train")]
    return []


def write_missing(benchmark: Benchmark, path: Path) -> int:
    """Write the names of missing images, one a line, with addresses after a tab where known.

    Args:
        benchmark: whose images.
        path: the file to write; an existing one is replaced.

    Returns:
        How many there are.

    Raises:
        OSError: the file cannot be written.
    """
    missing = missing_images(benchmark)
    lines = ["\t".join([name, *addresses(name)]) for name in missing]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"--missing {path} cannot be written: {error.strerror}; pass the name of a file, in a "
            "folder of yours"
        ) from error
    return len(missing)


def origin(benchmark: Benchmark, missing: Sequence[str]) -> str:
    """Where the official images come from, in one sentence."""
    from_coco = next((found for name in missing if (found := addresses(name))), [])
    if from_coco:
        where = " or ".join(from_coco)
        these = "this one is" if len(missing) == 1 else f"these {len(missing)} are"
        return f"COCO serves single files, so only {these} needed, such as {where}"
    entry = BENCHMARKS.get(benchmark.name)
    return "" if entry is None or not entry.images else f"The official ones: {entry.images}"


def _message(benchmark: Benchmark, missing: Sequence[str]) -> str:
    """How many, which, where they were looked for, where they come from, what to do."""
    rest = len(missing) - NAMED
    named = ", ".join(missing[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
    folders = Counter(
        str(benchmark.files[name].parent) for name in missing if name in benchmark.files
    )
    first = [folder for folder, _ in folders.most_common(3)]
    more = f" and {len(folders) - len(first)} more" if len(folders) > len(first) else ""
    count = f"{len(missing)} of {len(benchmark.images)} images of {benchmark.name}"
    sentences = [
        f"{count} are missing: {named}",
        f"Looked for in {', '.join(first)}{more}" if first else "",
        origin(benchmark, missing),
        "Pass their folder as --images; "
        f"`lvlm-prune benchmarks {benchmark.name} --data DIR --missing FILE` lists all",
    ]
    return ". ".join(sentence for sentence in sentences if sentence)
