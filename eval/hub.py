"""Benchmarks from the hub, when no folder is given: read once, kept as files.

In: a benchmark of the list. Out: a `Benchmark` from a folder of the cache
(`~/.cache/lvlm-prune/NAME`, or below `LVLM_PRUNE_CACHE`), which is filled through the package
`datasets` at the first call. The folder has the official layout (`hub_files`) and appears when it
is complete. Without the package, without a network, or for a benchmark that the hub does not have,
an error says what to download and which `--data` to pass.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvlm_prune.eval.benchmark import Benchmark
from lvlm_prune.eval.benchmarks import Entry
from lvlm_prune.eval.hub_files import write_hallusionbench, write_mme, write_mmvp, write_pope

Rows = Iterable[Mapping[str, Any]]
CACHE = "LVLM_PRUNE_CACHE"
DONE = "hub.json"  # which table a folder of the cache was made from


class HubError(OSError):
    """A benchmark cannot be had from the hub."""


@dataclass(frozen=True)
class Table:
    """Where the hub has a benchmark.

    Args:
        names: of the dataset; the next is tried where one is not found.
        splits: that belong to it, in order.
        write: turns rows into files of the official layout.
    """

    names: tuple[str, ...]
    splits: tuple[str, ...]
    write: Callable[[Rows, Path], None]


TABLES: Mapping[str, Table] = {
    "pope": Table(("lmms-lab-encoder/POPE", "lmms-lab/POPE"), ("test",), write_pope),
    "mme": Table(("lmms-lab-encoder/MME", "lmms-lab/MME"), ("test",), write_mme),
    "hallusionbench": Table(
        ("lmms-lab/HallusionBench",), ("image", "non_image"), write_hallusionbench
    ),
    "mmvp": Table(("lmms-lab-eval/MMVP",), ("train",), write_mmvp),
}


def cache_folder() -> Path:
    """Where benchmarks of the hub are kept."""
    named = os.environ.get(CACHE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "lvlm-prune"


def read_rows(name: str, splits: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Rows of a dataset, images as bytes.

    Args:
        name: on the hub, or a local folder of parquet files.
        splits: one after the other.

    Raises:
        ImportError: the package `datasets` is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "the hub is read with the package datasets: pip install 'lvlm-prune[eval]'"
        ) from error
    for split in splits:
        table = datasets.load_dataset(name, split=split)
        if "image" in table.column_names:
            table = table.cast_column("image", datasets.Image(decode=False))
        yield from table


def load_from_hub(
    entry: Entry,
    subset: str | None = None,
    images: Path | None = None,
    read: Callable[[str, Sequence[str]], Rows] = read_rows,
) -> Benchmark:
    """Load a benchmark that no folder was given for.

    Args:
        entry: which one.
        subset: a part of it; None takes all.
        images: folder of its images, if not those of the hub.
        read: reads the rows of a dataset.

    Raises:
        HubError: the hub does not have it, cannot be reached, or has other rows.
        ImportError: the package `datasets` is missing.
        ValueError: an unknown subset.
    """
    folder = cache_folder() / entry.name
    if not (folder / DONE).is_file():
        table = TABLES.get(entry.name)
        if table is None:
            raise HubError(f"{entry.name} is not read from the hub. {_instead(entry)}")
        _fill(folder, table, entry, read)
    return entry.load(folder, subset, images)


def _fill(
    folder: Path, table: Table, entry: Entry, read: Callable[[str, Sequence[str]], Rows]
) -> None:
    """Fill a folder of the cache from the first dataset that can be read."""
    failures = []
    for name in table.names:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{entry.name}.part-"))
        try:
            table.write(read(name, table.splits), part)
            source = {"dataset": name, "splits": table.splits}
            (part / DONE).write_text(json.dumps(source), encoding="utf-8")
            _move(part, folder)
        except ImportError as error:
            raise ImportError(f"no data given, and {error}. {_instead(entry)}") from error
        # Whatever the network did or the table lacks, the next step is the same.
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            failures.append(f"{name}: {type(error).__name__}: {first}")
            if isinstance(error, ConnectionError):
                break
        else:
            return
        finally:
            shutil.rmtree(part, ignore_errors=True)
    raise HubError(
        f"{entry.name} could not be read from the hub ({'; '.join(failures)}). {_instead(entry)}"
    )


def _move(part: Path, folder: Path) -> None:
    """Put a complete folder in its place, unless another process was faster."""
    if folder.exists() and not (folder / DONE).is_file():
        shutil.rmtree(folder)
    try:
        part.rename(folder)
    except OSError:
        if not (folder / DONE).is_file():
            raise


def _instead(entry: Entry) -> str:
    """What to download and where to put it."""
    return f"Pass --data with {entry.needs}. Images: {entry.images}"
