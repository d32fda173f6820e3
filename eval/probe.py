"""The bundled probe: yes/no questions about drawn scenes, in the file formats of POPE and MME.

In: the probe folder (`images/`, `pope_<split>.jsonl`, `mme/<task>.txt`). Out: `Item`s, one for each
line of those files, in file order. A subset is made of whole images, never of single questions, so
that every split stays balanced and every MME pair complete.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lvlm_prune.eval.benchmark import Item

POPE_SPLITS = ("random", "popular", "adversarial")
MME_TASKS = ("existence", "count", "position", "color", "relation")


@dataclass(frozen=True)
class Probe:
    """Items and the folder that holds their images.

    Args:
        items: all lines, in file order.
        images: image file names, in order of first appearance.
        folder: where the image files are.
    """

    items: list[Item]
    images: list[str]
    folder: Path


def load_probe(folder: Path, limit: int | None = None) -> Probe:
    """Read the probe.

    Args:
        folder: the probe folder, `lvlm_prune.assets.probe_path()`.
        limit: use only the first images, with all their questions; None uses all.

    Returns:
        The items whose image is used.

    Raises:
        FileNotFoundError: a file of the probe is missing.
        ValueError: a line that is neither yes nor no, or an id that appears twice.
    """
    items = [item for split in POPE_SPLITS for item in _pope_items(folder, split)]
    items += [item for task in MME_TASKS for item in _mme_items(folder, task)]
    seen: set[str] = set()
    for item in items:
        if item.label not in ("yes", "no"):
            raise ValueError(f"{item.id} has the label {item.label!r}; allowed: yes, no")
        if item.id in seen:
            raise ValueError(f"{item.id} appears twice in {folder}")
        seen.add(item.id)
    named = dict.fromkeys(item.image for item in items if item.image is not None)
    images = list(named)[:limit]
    used = set(images)
    return Probe([item for item in items if item.image in used], images, folder / "images")


def _pope_items(folder: Path, split: str) -> Iterator[Item]:
    """The lines of one POPE split."""
    for line in (folder / f"pope_{split}.jsonl").read_text(encoding="utf-8-sig").splitlines():
        row = json.loads(line)
        name = f"pope/{split}/{row['question_id']}"
        yield Item(name, row["image"], row["text"], row["label"], "pope", split)


def _mme_items(folder: Path, task: str) -> Iterator[Item]:
    """The lines of one MME task: image, question and answer, separated by tabs."""
    lines = (folder / "mme" / f"{task}.txt").read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        image, question, answer = line.split("\t")
        yield Item(f"mme/{task}/{number}", image, question, answer.lower(), "mme", task)
