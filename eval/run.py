"""One run of a grid: a config, the questions that it answers, and its answers on disk.

In: a config, benchmark lines and the distinct questions that they ask. Out: which questions are
still to be answered by this process, and rows made of answers. Questions are shared out among
processes by image, whatever has been answered before, so that all agree without asking each other.
"""

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.attached import Answer
from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.inside import inside_label
from lvlm_prune.eval.ledger import Ledger
from lvlm_prune.eval.processes import Processes
from lvlm_prune.eval.questions import Questions
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.run_header import OtherRunError


@dataclass(eq=False)
class Run:
    """A run.

    Args:
        config: what is pruned.
        name: of its folder.
        key: what it does inside the LLM.
        items: the benchmark lines that it answers.
        places: the distinct questions of these lines, in `Questions.asked`.
        ledger: its answers.
        control_of: label of the run whose measured tokens this control has, or None.
    """

    config: PruneConfig
    name: str
    key: Hashable
    items: list[Item]
    places: list[int]
    ledger: Ledger
    control_of: str | None = None


class Sheet:
    """The benchmark lines behind each distinct question.

    Args:
        benchmark: the lines and their scoring rules.
        questions: the distinct questions.
        processes: who answers them.
    """

    def __init__(self, benchmark: Benchmark, questions: Questions, processes: Processes) -> None:
        self.benchmark, self.questions, self.processes = benchmark, questions, processes
        self.lines: dict[int, list[Item]] = {}
        places = questions.places(benchmark.items)
        for item, place in zip(benchmark.items, places, strict=True):
            self.lines.setdefault(place, []).append(item)
        self._lengths = {
            self.name(place): len(questions.asked[place].columns.get("input_ids", ()))
            for place in self.lines
        }

    def name(self, place: int) -> str:
        """The id of a question's row."""
        return self.lines[place][0].id

    def length(self, name: str) -> int:
        """Columns of a row's prompt, all visual tokens among them."""
        return self._lengths[name]

    def longest(self, place: int) -> int:
        """New tokens of an answer at most."""
        return max(self.benchmark.longest[item.benchmark] for item in self.lines[place])

    def own(self, run: Run) -> list[int]:
        """The questions of a run that are this process's."""
        return [place for place in run.places if self._is_own(place)]

    def left(self, run: Run) -> list[int]:
        """The questions of a run that this process has still to answer."""
        return [place for place in self.own(run) if not run.ledger.answered(self.name(place))]

    def row(self, place: int, answer: Answer) -> Row:
        """The row of an answer."""
        asked = self.questions.asked[place]
        loaded = self.questions.loaded
        return Row(
            id=self.name(place),
            items=tuple(item.id for item in self.lines[place]),
            image=self.questions.name(asked),
            question=asked.text,
            prompt=loaded.prompt(asked.text, image=asked.image is not None),
            text=answer.text,
            parsed={} if answer.text is None else self._parsed(place, answer.text),
            error=answer.error,
            seconds=round(answer.seconds, 6),
            kept=answer.kept,
            total=answer.total,
            peak_mib=None if answer.peak_mib is None else round(answer.peak_mib, 1),
            tokens=answer.tokens,
            words=answer.words,
            sinks=answer.sinks,
            image_crc=None if asked.image is None else self.questions.checksums[asked.image],
        )

    def check_images(self, run: Run) -> None:
        """Refuse answers about other pictures of the same names.

        Raises:
            OtherRunError: an image file is not the one that an answer is about.
        """
        now = dict(zip(self.questions.images, self.questions.checksums, strict=True))
        for row in run.ledger.rows.values():
            if row.image not in now or row.error is not None or row.image_crc is None:
                continue
            if row.image_crc != now[row.image]:
                raise OtherRunError(
                    f"{run.ledger.folder} holds answers about another picture named {row.image} "
                    f"(CRC-32 {row.image_crc} there and {now[row.image]} now). Pass another --out, "
                    "the old images, or --restart to answer everything anew"
                )

    def kept(self, place: int, run: Run) -> Row:
        """The row of a run on disk; a smaller limit may have had fewer lines of it."""
        items = tuple(item.id for item in self.lines[place])
        return replace(run.ledger.rows[self.name(place)], items=items)

    def copied(self, place: int, twin: Run) -> Row | None:
        """The row of another run that read the same prompt, if it has one."""
        row = twin.ledger.rows.get(self.name(place))
        if row is None or row.error is not None:
            return None
        items = tuple(item.id for item in self.lines[place])
        return replace(row, items=items, seconds=0.0, same_as=row.same_as or twin.name)

    def _is_own(self, place: int) -> bool:
        """Whether this process answers a question: all about an image are one process's."""
        image = self.questions.asked[place].image
        share = place if image is None else image
        return share % self.processes.count == self.processes.rank

    def _parsed(self, place: int, text: str) -> dict[str, str]:
        """What an answer says by each parser."""
        item = self.lines[place][0]
        scoring = self.benchmark.scorings[item.benchmark]
        if scoring.right is None:
            return {}
        return {parser: scoring.parse(item, text, parser) for parser in scoring.parsers}


def settings_names(config: PruneConfig) -> list[str]:
    """What a run's name says besides method and budget."""
    policy = [] if config.sinks == "ignore" else [f"sinks-{config.sinks}"]
    unit = [] if config.per == "image" else [f"per-{config.per}"]
    return [*policy, *unit, *([] if config.order == "raster" else ["sinks-first"])]


def run_name(config: PruneConfig, label: str | None = None) -> str:
    """Name of a run's folder: the method, its budget as it was asked for, the rest.

    A share and the number that it comes to are two runs, as more images may tell them apart.

    Args:
        config: of the run.
        label: what it does inside the LLM, where that is not the config's own words.
    """
    base = "unpruned"
    if config.method != "identity":
        # The share of all tokens is not one token.
        keep = "1.0" if config.keep == 1 and isinstance(config.keep, float) else f"{config.keep:g}"
        base = "-".join([config.method, keep, *settings_names(config)])
    inside = label or inside_label(config)
    return f"{base}-{re.sub('[^a-z0-9._]+', '-', inside.lower())}" if inside else base


def rows_by_item(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The row of every benchmark line."""
    return {name: row for row in rows.values() for name in row.items}
