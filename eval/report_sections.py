"""What a report is about: each run on each scoring rule, read from `results.json`.

In: the values of one or several `results.json`. Out: a `Section` for each benchmark and scoring
rule, with an `Entry` for each run, baseline first. It reads files of `eval` and nothing else; what
`scored` and `paired` wrote comes back here as numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lvlm_prune.eval.benchmark import OFFICIAL
from lvlm_prune.eval.bootstrap import Number
from lvlm_prune.eval.mcnemar import holm
from lvlm_prune.eval.plot import CONTROLS
from lvlm_prune.eval.report_numbers import tokens

STAGES = ("encode", "select", "splice", "prefill")


@dataclass(frozen=True)
class Entry:
    """A run on one scoring rule.

    Args:
        run: name of its folder.
        label: name of its method and settings, without the budget.
        kept: visual tokens of an image that enter the LLM; the mean, where images differ.
        total: visual tokens of an image.
        baseline: whether the others are compared with it.
        control: whether it is a method that chooses nothing, such as `random`.
        answered: lines with an answer.
        lines: lines of the benchmark.
        units: images, or what else belongs together, that the intervals were drawn from.
        says: lines that say yes, no, neither, nothing, and failed calls.
        parsers: every number of every parser.
        notes: sentences of `scored`.
        headline: main number, official parser; None where nothing was answered.
        yes_ratio: share of answers that are read as yes, official parser.
        differences: run minus baseline; empty where nothing was compared.
        answers: flips and p values; None where answers are not right or wrong one by one.
        holm: p adjusted for all runs of the section; None without a p.
        ms: time to the first token; None where nothing was timed.
        llm_ratio: LLM prefill with selection and splice, as a share of the unpruned one.
        total_ratio: time to the first token, as a share of the unpruned one.
        average: visual tokens at a layer of the LLM, the mean over its layers, where stages inside
            the LLM drop some; None where all that enter stay.
    """

    run: str
    label: str
    kept: float
    total: float
    baseline: bool
    control: bool
    answered: int
    lines: int
    units: int
    says: Mapping[str, int]
    parsers: Mapping[str, Mapping[str, Number]]
    notes: tuple[str, ...]
    headline: Number | None
    yes_ratio: float | None
    differences: Mapping[str, Number]
    answers: Mapping[str, Any] | None
    holm: float | None
    ms: float | None
    llm_ratio: float | None
    total_ratio: float | None
    average: float | None = None

    @property
    def spent(self) -> float:
        """Visual tokens that a layer of the LLM has, on average over its layers."""
        return self.kept if self.average is None else self.average


@dataclass(frozen=True)
class Section:
    """A scoring rule with all runs.

    Args:
        benchmark: name of the benchmark.
        key: of the scoring rule.
        metric: name of the main number.
        scale: its largest value.
        lower_is_better: whether a lower one is better.
        entries: the runs.
    """

    benchmark: str
    key: str
    metric: str
    scale: float
    lower_is_better: bool
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """For headings and sentences."""
        return self.key if self.key == self.benchmark else f"{self.benchmark} / {self.key}"

    @property
    def stem(self) -> str:
        """For file names."""
        parts = dict.fromkeys([self.benchmark, self.key])
        return "-".join("".join(c if c.isalnum() else "_" for c in part) for part in parts)

    @property
    def staged(self) -> bool:
        """Whether any run drops tokens inside the LLM."""
        return any(entry.average is not None for entry in self.entries)

    @property
    def baseline(self) -> Entry | None:
        """The run that the others are compared with, if there is exactly one."""
        found = [entry for entry in self.entries if entry.baseline]
        return found[0] if len(found) == 1 else None

    @property
    def compared(self) -> tuple[Entry, ...]:
        """The runs with a difference of the main number."""
        return tuple(entry for entry in self.entries if self.metric in entry.differences)

    @property
    def captions(self) -> bool:
        """Whether answers are not right or wrong one by one."""
        return bool(self.compared) and all(entry.answers is None for entry in self.compared)

    @property
    def beside(self) -> tuple[str, ...]:
        """Of captions, the numbers without which the main one says little: who names less makes up
        less."""
        if not self.captions:
            return ()
        names = dict.fromkeys(name for entry in self.compared for name in entry.differences)
        return tuple(name for name in names if name.lower() in ("recall", "cover"))

    def gain(self, entry: Entry) -> Number | None:
        """Difference of the main number to the baseline."""
        return entry.differences.get(self.metric)

    def verdict(self, entry: Entry) -> str:
        """`better`, `worse` or `level`, by the interval of the difference; `unknown` without."""
        gain = self.gain(entry)
        if gain is None or gain.low is None or gain.high is None:
            return "unknown"
        if gain.low <= 0 <= gain.high:
            return "level"
        return "better" if (gain.low > 0) != self.lower_is_better else "worse"


def sections_of(results: Mapping[str, Any]) -> list[Section]:
    """All sections of a result file.

    Args:
        results: values of `results.json`.
    """
    found = []
    for name, about in results["benchmarks"].items():
        for key, headline in about["headlines"].items():
            entries = [
                _entry(run, run["benchmarks"][name][key], name, key, headline["metric"])
                for run in results["runs"]
                if key in run["benchmarks"].get(name, {})
            ]
            if entries:
                scale, lower = float(headline["scale"]), bool(headline["lower_is_better"])
                section = Section(name, key, headline["metric"], scale, lower, tuple(entries))
                found.append(adjusted(section))
    return found


def adjusted(section: Section) -> Section:
    """Holm's p values over all compared runs of a section."""
    places = [i for i, entry in enumerate(section.entries) if entry.answers is not None]
    raw = [_p(section.entries[i]) for i in places]
    values = dict(zip(places, holm(raw), strict=True))
    entries = [replace(entry, holm=values.get(i)) for i, entry in enumerate(section.entries)]
    return replace(section, entries=tuple(entries))


def _p(entry: Entry) -> float:
    """The raw p value of an entry that has answers."""
    return float((entry.answers or {})["mcnemar_p"])


def _entry(
    run: Mapping[str, Any], block: Mapping[str, Any], name: str, key: str, metric: str
) -> Entry:
    """One run on one rule."""
    parsers = {
        parser: {each: Number.from_dict(values) for each, values in numbers.items()}
        for parser, numbers in block["parsers"].items()
    }
    official = parsers.get(OFFICIAL, {})
    pair = ((run.get("against_baseline") or {}).get(name) or {}).get(key) or {}
    prefill = run.get("prefill") or {}
    times = prefill.get("times") or {}
    return Entry(
        run=run["run"],
        label=run["label"],
        kept=float(run["kept"]),
        total=float(run["total"]),
        baseline=bool(run.get("baseline")),
        control=run.get("method") in CONTROLS and run["label"] == run["method"],
        answered=int(block["answered"]),
        lines=int(block["total"]),
        units=int(block["units"]),
        says=block["counts"],
        parsers=parsers,
        notes=tuple(block["notes"]),
        headline=official.get(metric),
        yes_ratio=_yes_ratio(official, block),
        differences={
            each: Number.from_dict(values) for each, values in pair.get("differences", {}).items()
        },
        answers=pair.get("answers"),
        holm=None,
        ms=sum(float(times[stage]) for stage in STAGES) if times else None,
        llm_ratio=_ratio(run, prefill, "llm_ratio"),
        total_ratio=_ratio(run, prefill, "total_ratio"),
        # None too where all tokens are dropped before the first layer: a share of no tokens.
        average=(run.get("layers") or {}).get("average") or None,
    )


def _yes_ratio(official: Mapping[str, Number], block: Mapping[str, Any]) -> float | None:
    """As the rule has it, or else the share of answers that say yes."""
    if "yes_ratio" in official:
        return official["yes_ratio"].value
    says = block["counts"]
    if not block["answered"] or not says["yes"] + says["no"]:
        return None
    return float(says["yes"] / block["answered"])


def _ratio(run: Mapping[str, Any], prefill: Mapping[str, Any], name: str) -> float | None:
    """A share of the unpruned time; the baseline's own is 1."""
    if name in prefill:
        return float(prefill[name])
    return 1.0 if prefill and run.get("baseline") else None


def labelled(entry: Entry) -> str:
    """Name of a run with its budget."""
    return entry.label if entry.baseline else f"{entry.label} at {tokens(entry.kept)}"


def budget(entry: Entry) -> tuple[int, int]:
    """Visual tokens that a run keeps and has, rounded."""
    return round(entry.kept), round(entry.total)


def budgets(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Budgets of the runs, most tokens first."""
    return sorted({budget(entry) for entry in entries}, reverse=True)
