"""The result of one run: what was kept, what was said, and how it scores on the probe.

In: items, raw answers, and what was kept. Out: `RunResult`, and its numbers for a result file.
Scores of other benchmarks, with intervals, are `scored`'s business.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.config import PruneConfig
from lvlm_prune.eval import mme, pope
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.caption import Captioned
from lvlm_prune.eval.inside import inside_label
from lvlm_prune.eval.interval import Interval
from lvlm_prune.eval.layer_use import LayerUse
from lvlm_prune.eval.prefill import Timing
from lvlm_prune.eval.probe import MME_TASKS, POPE_SPLITS
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.run import settings_names
from lvlm_prune.eval.sink_counts import SinkCount


@dataclass
class RunResult:
    """One method at one budget, with or without something inside the LLM.

    Args:
        config: what was asked for.
        name: of the run's folder.
        hash: of everything that its answers depend on.
        kept: visual tokens of an image that reach the LLM; the mean, where images differ.
        total: visual tokens of an image, N; the mean, where images differ.
        items: the benchmark lines that were answered, without captions.
        answers: raw answer to each line.
        pope: score of each split.
        mme: score of each task; empty where the pairs were not asked.
        same_as: name of an earlier run that kept exactly the same rows and did the same inside the
            LLM, or None.
        sinks: ViT sinks, or None where nobody looked for them.
        against_random: difference to `random` at the same budget, or None; of a stage inside the
            LLM to random tokens at the same layers.
        timing: prefill times, or None.
        seconds: time of answering, summed over prompts; none where another run's answers served.
        stages: how many tokens go on from which layer, None where the method decides; or None.
        use: what the stages inside the LLM spent, or None.
        control_of: label of the run whose measured tokens this control has, or None.
        against_base: difference to the same run without its reweighting, or else without its
            stages; None before the LLM.
        changed: share of POPE answers that differ from that run's, or None.
        captions: what the run said of each image, or None.
        errors: calls that failed.
        rows: everything that the run said, failed calls included.
        asked: all benchmark lines of the run.
    """

    config: PruneConfig
    name: str
    hash: str
    kept: int
    total: int
    items: list[Item]
    answers: list[str]
    pope: dict[str, pope.PopeScore]
    mme: dict[str, mme.MmeScore]
    same_as: str | None = None
    sinks: SinkCount | None = None
    against_random: Interval | None = None
    timing: Timing | None = None
    seconds: float = 0.0
    stages: Mapping[int, int | float | None] | None = None
    use: LayerUse | None = None
    control_of: str | None = None
    against_base: Interval | None = None
    changed: float | None = None
    captions: Captioned | None = None
    errors: int = 0
    rows: list[Row] = field(default_factory=list)
    asked: list[Item] = field(default_factory=list)

    @property
    def inside(self) -> bool:
        """Whether something happens inside the LLM."""
        return self.config.layers is not None or self.config.reweight is not None

    @property
    def unpruned(self) -> bool:
        """Whether this is the baseline."""
        return self.config.method == "identity" and not self.inside

    @property
    def base(self) -> str:
        """Name of what reaches the LLM."""
        if self.config.method == "identity":
            return "unpruned"
        added = ", ".join(part.replace("-", " ") for part in settings_names(self.config))
        return self.config.method + (f" ({added})" if added else "")

    @property
    def label(self) -> str:
        """Name of the run in tables."""
        if self.control_of is not None:
            return f"random as {self.control_of}"
        return inside_label(self.config) if self.inside else self.base

    @property
    def accuracy(self) -> float:
        """Presence accuracy: mean over the POPE splits."""
        return self._mean("accuracy")

    @property
    def f1(self) -> float:
        """Mean F1 over the POPE splits."""
        return self._mean("f1")

    @property
    def yes_ratio(self) -> float:
        """Mean yes-ratio over the POPE splits."""
        return self._mean("yes_ratio")

    def _mean(self, name: str) -> float:
        return sum(getattr(score, name) for score in self.pope.values()) / len(self.pope)

    def right(
        self, images: Sequence[str], among: Collection[str] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Right answers and questions of each image and POPE split, both `[images, splits]`.

        Args:
            images: all image names.
            among: ids of the lines to look at; None is all.
        """
        places = {image: number for number, image in enumerate(images)}
        right = np.zeros((len(images), len(POPE_SPLITS)), np.int64)
        asked = np.zeros_like(right)
        for item, answer in zip(self.items, self.answers, strict=True):
            wanted = among is None or item.id in among
            if item.benchmark == "pope" and item.image is not None and wanted:
                cell = places[item.image], POPE_SPLITS.index(item.split)
                right[cell] += pope.parse(answer) == item.label
                asked[cell] += 1
        return right, asked

    def to_dict(self) -> dict[str, Any]:
        """Everything but the answers."""
        config = self.config
        return {
            "run": self.name,
            "label": f"{self.base} + {self.label}" if self.inside else self.label,
            "hash": self.hash,
            "config": config.to_dict(),
            "baseline": self.unpruned,
            "errors": self.errors,
            "method": self.config.method,
            "layers": None if config.layers is None else self._layers(config.layers.to_dict()),
            "reweight": None if config.reweight is None else config.reweight.to_dict(),
            "sinks": self.config.sinks,
            "per": self.config.per,
            "order": self.config.order,
            "kept": self.kept,
            "total": self.total,
            "same_rows_as": self.same_as,
            "presence": self._presence(),
            "changed_answers": self.changed,
            "pope": {split: score.to_dict() for split, score in self.pope.items()},
            "mme": {task: score.to_dict() for task, score in self.mme.items()},
            "vit_sinks": None if self.sinks is None else asdict(self.sinks),
            "prefill": None if self.timing is None else self.timing.to_dict(),
            "captions": None if self.captions is None else self.captions.to_dict(),
            "seconds": round(self.seconds, 1),
        }

    def _presence(self) -> dict[str, Any] | None:
        """Numbers over the POPE splits of the probe."""
        if not self.pope:
            return None
        return {
            "accuracy": self.accuracy,
            "f1": self.f1,
            "yes_ratio": self.yes_ratio,
            "minus_random": _interval(self.against_random),
            "minus_base": _interval(self.against_base),
        }

    def _layers(self, schedule: dict[str, Any]) -> dict[str, Any]:
        """The schedule as it was asked for and as it ran, and what it spent."""
        ran = {str(layer): keep for layer, keep in (self.stages or {}).items()}
        use = {} if self.use is None else self.use.to_dict()
        return {**schedule, "ran": ran, "control_of": self.control_of, **use}


def _interval(found: Interval | None) -> dict[str, float] | None:
    """An interval for a result file."""
    return None if found is None else asdict(found)


def score_pope(items: Sequence[Item], answers: Sequence[str]) -> dict[str, pope.PopeScore]:
    """Score the POPE splits that the items contain."""
    scores = {}
    for split in POPE_SPLITS:
        rows = _rows(items, answers, "pope", split)
        if rows:
            scores[split] = pope.score([row[1] for row in rows], [row[2] for row in rows])
    return scores


def score_mme(items: Sequence[Item], answers: Sequence[str]) -> dict[str, mme.MmeScore]:
    """Score the MME tasks that the items contain."""
    rows = {task: _rows(items, answers, "mme", task) for task in MME_TASKS}
    return {task: mme.score(found) for task, found in rows.items() if found}


def _rows(
    items: Sequence[Item], answers: Sequence[str], benchmark: str, split: str
) -> list[tuple[str, str, str]]:
    """Image, label and answer of the lines of one split."""
    return [
        (item.image or "", item.label, answer)
        for item, answer in zip(items, answers, strict=True)
        if item.benchmark == benchmark and item.split == split
    ]


def as_json(value: Any) -> str:
    """Indented JSON with a final line break."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file in one step."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
