"""What `lvlm-prune benchmarks` prints: the list, one benchmark, or what a folder holds of it.

Out: plain text, from the list of benchmarks and from the files themselves.
"""

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lvlm_prune.eval.benchmark import Benchmark
from lvlm_prune.eval.benchmarks import BENCHMARKS, Entry, benchmark_named, load_benchmark
from lvlm_prune.eval.hub import TABLES
from lvlm_prune.eval.missing import MissingImagesError, missing_images, write_missing
from lvlm_prune.eval.pope_files import SOURCES
from lvlm_prune.tables import aligned

WIDTH = 100
NOTE = """\
`bundled` comes with the package, `hub` is read through the package datasets (the eval extra) where
no --data is given, `--data` needs a folder of yours. `lvlm-prune benchmarks NAME` says which files,
`lvlm-prune benchmarks NAME --data DIR` checks them."""


def benchmarks_table() -> str:
    """All benchmarks, a line each."""
    rows = [("--benchmark", "files", "what it asks")]
    rows += [(entry.name, _files(entry), entry.summary) for entry in BENCHMARKS.values()]
    return "\n".join([*aligned(rows), "", NOTE])


def benchmark_text(name: str) -> str:
    """What one benchmark needs.

    Raises:
        ValueError: no such benchmark.
    """
    entry = benchmark_named(name)
    facts = [
        ("files", _files(entry)),
        ("--data", entry.needs),
        ("--subset", entry.subsets),
        ("images", entry.images),
        ("licence", entry.licence),
    ]
    return "\n".join([f"{entry.name}: {entry.summary}", *_paragraphs(facts)])


def checked(
    name: str,
    data: Path | None,
    subset: str | None = None,
    images: Path | None = None,
    missing: Path | None = None,
) -> tuple[str, bool]:
    """What a folder holds of a benchmark.

    Args:
        name: which benchmark.
        data: its files; None is the bundled ones.
        subset: a part of it.
        images: folder of its images.
        missing: file for the names of missing images.

    Returns:
        A text, and whether all images are there.

    Raises:
        ValueError: no such benchmark or subset, or broken files.
        FileNotFoundError: a question file is absent.
    """
    found = load_benchmark(name, data, subset, images)
    absent = missing_images(found)
    facts = [
        ("questions", _counted(found)),
        ("images", f"{len(found.images)}, missing {len(absent)}"),
        ("version", ", ".join(f"{name} {value}" for name, value in found.version.items())),
        ("licence", _licence(benchmark_named(name), found)),
    ]
    lines = [found.source, *_paragraphs(facts)]
    if absent:
        lines += textwrap.wrap(str(MissingImagesError(found, absent)), WIDTH)
    if missing is not None:
        count = write_missing(found, missing)
        lines.append(f"{missing}: {count} names")
    return "\n".join(lines), not absent


def _files(entry: Entry) -> str:
    """Where the files come from."""
    return "bundled" if entry.bundled else "hub" if entry.name in TABLES else "--data"


def _licence(entry: Entry, found: Benchmark) -> str:
    """The licence of what was read, where it is the official benchmark and not one's own."""
    source = found.version.get("subset", "").split("/")[0]
    if entry.name == "pope" and source not in SOURCES:
        return (
            "your own questions: whatever terms you give them; images under those of each; POPE's "
            "licence is that of its own files"
        )
    return entry.licence


def _counted(benchmark: Benchmark) -> str:
    """Lines, different prompts, and lines of each split."""
    prompts = len({(item.image, item.question) for item in benchmark.items})
    splits = Counter(item.split for item in benchmark.items)
    own = ", ".join(f"{split} {count}" for split, count in splits.items())
    return f"{len(benchmark.items)} lines, {prompts} different prompts: {own}"


def _paragraphs(facts: Sequence[tuple[str, str]]) -> list[str]:
    """Named facts, wrapped below their names."""
    indent = max(len(name) for name, _ in facts) + 4
    lines: list[str] = []
    for name, text in facts:
        start = f"  {name}".ljust(indent)
        lines += textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * indent)
    return lines
