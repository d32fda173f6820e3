"""Reads the frozen probe back: scenes, questions and the bound of a blind answerer.

In: the probe folder. Out: plain records. It knows nothing of models.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLITS = ("random", "popular", "adversarial")
PROBE = Path(__file__).parent.parent / "probe"


@dataclass(frozen=True)
class Asked:
    """One question about one probe image; the answer is in lower case."""

    task: str
    image: str
    text: str
    answer: str


def scenes() -> dict[str, dict[str, Any]]:
    """Truth of each scene by image name."""
    found = json.loads((PROBE / "scenes.json").read_text())["scenes"]
    return {scene["image"]: scene for scene in found}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def pope(split: str) -> list[Asked]:
    """Questions of one POPE split."""
    rows = read_jsonl(PROBE / f"pope_{split}.jsonl")
    return [Asked(f"pope {split}", r["image"], r["text"], r["label"]) for r in rows]


def mme(path: Path) -> list[Asked]:
    """Questions of one MME file."""
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [Asked(f"mme {path.stem}", image, text, a.lower()) for image, text, a in rows]


def open_ended() -> list[Asked]:
    """Open questions, one task per kind."""
    rows = read_jsonl(PROBE / "open_questions.jsonl")
    return [Asked(r["kind"], r["image"], r["text"], r["answer"]) for r in rows]


def all_questions(mme_folder: Path | None = None) -> list[Asked]:
    """Every question of the probe; `mme_folder` may hold candidate MME files."""
    found = [q for split in SPLITS for q in pope(split)]
    for path in sorted((mme_folder or PROBE / "mme").glob("*.txt")):
        found += mme(path)
    return found + open_ended()


def blind_bound(questions: Iterable[Asked]) -> float:
    """Accuracy of the best answerer that sees only the question string."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        answers[question.text][question.answer] += 1
    right = sum(max(counter.values()) for counter in answers.values())
    return right / sum(sum(counter.values()) for counter in answers.values())
