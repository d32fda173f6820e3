"""Scores of answer files that people already have, under every harness's rule side by side.

In: a benchmark's labels and a file of answers. Out: one JSON-ready object: how many lines were
answered, what the answers say, and the numbers in the layout of the official script, for several
parsers below `parsers`. Reading is `answer_files`, joining `join`, and the rules are the `Scoring`s
of the benchmarks. Where the official script divides by zero the number is 0 and a note says so.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lvlm_prune.eval.answer_files import MME, read_answers
from lvlm_prune.eval.answer_files_contract import AnswerFile
from lvlm_prune.eval.answer_files_mme import (
    fewer_images,
    questions_in_all,
    refuse_missing_tasks,
    refuse_repeated,
)
from lvlm_prune.eval.benchmark import OFFICIAL, Benchmark, Scoring
from lvlm_prune.eval.benchmarks import benchmark_named, load_benchmark
from lvlm_prune.eval.hub import HubError
from lvlm_prune.eval.join import Joined, join
from lvlm_prune.eval.mme_scoring import TASKS, partial_notes, partial_sums, scored_tasks
from lvlm_prune.eval.score_error import ScoreError
from lvlm_prune.eval.score_notes import notes_on, refuse_unscorable
from lvlm_prune.eval.score_numbers import Parts, by_parser

ALL = "all"
# What a loader raises on labels that it cannot read.
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
    OSError,
    ImportError,
)


@dataclass(frozen=True)
class Request:
    """What to score.

    Args:
        benchmark: its name, such as `pope`.
        answers: a file of answers, or MME's folder.
        labels: the benchmark's questions with labels; None where the answers hold them (MME's
            folder) or the package does (the probe).
        parser: a name, or `all`.
        subset: a part of the benchmark, as its loader names it.
        allow_partial: score what is there.
    """

    benchmark: str
    answers: Path
    labels: Path | None = None
    parser: str = OFFICIAL
    subset: str | None = None
    allow_partial: bool = False


def score(request: Request) -> dict[str, Any]:
    """Score a file of answers.

    Returns:
        `benchmark`, `parser`, `n` answered of `total` lines, `counts` of what the answers say,
        `notes`, the official layout, and `parsers` for `all`.

    Raises:
        ScoreError: the answers cannot be scored; its `name` says why.
    """
    try:
        name = benchmark_named(request.benchmark).name
    except ValueError as error:
        raise ScoreError("unknown_benchmark", str(error)) from error
    if request.labels is not None and name != MME and _same(request.labels, request.answers):
        raise ScoreError(
            "labels_as_answers", f"{request.answers} is the file of the labels; pass the answers"
        )
    file = read_answers(request.answers, name)
    if not file.answers:
        raise ScoreError("empty_file", f"{request.answers} holds no answers to {name}")
    itself = name == MME and file.format == MME and _labels_itself(request)
    if itself:
        refuse_repeated(file.answers)
    benchmark = _labels(name, request, file)
    joined = join(benchmark, file, request.allow_partial)
    if itself:
        tasks = [task for task in TASKS if task in _asked(request, benchmark)]
        joined = replace(
            joined,
            total=questions_in_all(file.answers, tasks),
            notes=(*joined.notes, *fewer_images(file.answers, tasks)),
        )
    return score_joined(benchmark, joined, request)


def score_joined(benchmark: Benchmark, joined: Joined, request: Request) -> dict[str, Any]:
    """Score lines that have their answers.

    Raises:
        ScoreError: no answers at all (`nothing_answered`), some calls failed (`failed_calls`), a
            parser that there is not (`unknown_parser`) or that needs a package which is not there
            (`missing_package`), or lines that cannot be scored (`incomplete_pair`,
            `nothing_parsed`).
    """
    answered = sum(text is not None for text in joined.texts)
    if not answered:
        raise ScoreError("nothing_answered", f"all {len(joined.texts)} calls failed")
    if answered < len(joined.texts) and not request.allow_partial:
        raise ScoreError(
            "failed_calls",
            f"{len(joined.texts) - answered} of {len(joined.texts)} calls failed and have no "
            "answer; ask them again, or --allow-partial scores the others",
        )
    parts = _parts(benchmark, joined)
    wanted = _wanted(request.parser, [scoring for scoring, _ in parts.values()])
    for scoring, part in parts.values():
        refuse_unscorable(scoring, part, wanted, request.allow_partial)
    lacking = _lacking(benchmark, parts, request)
    found, absent = by_parser(parts, joined, wanted, lacking)
    first = next(iter(found))
    notes = [*joined.notes, *notes_on(joined, found[first], parts), *partial_notes(lacking)]
    notes += absent
    result = {
        "benchmark": benchmark.name,
        "parser": request.parser,
        "n": answered,
        "total": joined.total,
        "counts": found[first]["counts"],
        "notes": notes,
        **{name: value for name, value in found[first].items() if name != "counts"},
    }
    if request.parser == ALL:
        result["parsers"] = found
    return _finite(result)


def _parts(benchmark: Benchmark, joined: Joined) -> Parts:
    """The answered lines of each scoring rule."""
    parts = {}
    for key, scoring in benchmark.scorings.items():
        places = [place for place, item in enumerate(joined.items) if item.benchmark == key]
        if places:
            items = tuple(joined.items[place] for place in places)
            texts = tuple(joined.texts[place] for place in places)
            parts[key] = (scoring, Joined(items, texts, joined.total, joined.surplus))
    return parts


def _wanted(parser: str, scorings: Sequence[Scoring]) -> list[str]:
    """The parsers to score with, the one whose numbers stand at the top first."""
    known = list(dict.fromkeys(name for scoring in scorings for name in scoring.parsers))
    if parser == ALL:
        return known
    if parser not in known:
        raise ScoreError(
            "unknown_parser", f"no parser {parser!r} here; there are {', '.join(known)}, {ALL}"
        )
    return [parser]


def _lacking(benchmark: Benchmark, parts: Parts, request: Request) -> dict[str, list[str]]:
    """MME's sums that lack a task which was asked, and these tasks."""
    if MME not in parts:
        return {}
    _, part = parts[MME]
    lines = tuple(item.split for item in benchmark.items if item.benchmark == MME)
    asked = _asked(request, benchmark) if benchmark.name == MME else lines
    return partial_sums(asked, scored_tasks(part.items, part.texts))


def _labels(name: str, request: Request, file: AnswerFile) -> Benchmark:
    """The benchmark that the answers are to."""
    itself = name == MME and file.format == MME and _labels_itself(request)
    try:
        benchmark = load_benchmark(
            name, request.answers if itself else request.labels, request.subset
        )
    except UNREADABLE as error:
        absent = request.labels is None or isinstance(error, FileNotFoundError)
        wrong = "missing_labels" if absent else "bad_labels"
        raise ScoreError(wrong, _about_labels(error, name, request.labels)) from error
    if name == MME and file.format == MME and not request.allow_partial:
        refuse_missing_tasks(file.answers, _asked(request, benchmark))
    return benchmark


def _about_labels(error: Exception, name: str, labels: Path | None) -> str:
    """What is wrong with the labels, in the words of `score`'s options."""
    wanted = f"--labels of {name} takes: {benchmark_named(name).questions}"
    if labels is not None and not labels.exists():
        return f"there is no {labels}; {wanted}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{labels} cannot be read: {(error.strerror or '').lower()}; {wanted}"
    if labels is None and isinstance(error, ImportError | HubError):
        return f"{name} needs its labels; {wanted}"
    return str(error).replace("--data", "--labels")


def _asked(request: Request, benchmark: Benchmark) -> tuple[str, ...]:
    """MME's tasks that need an answer: all of them where a folder without labels is scored."""
    if _labels_itself(request) and request.subset is None and request.answers.is_dir():
        return TASKS
    return tuple(dict.fromkeys(item.split for item in benchmark.items))


def _labels_itself(request: Request) -> bool:
    """Whether the answers hold their labels, as MME's files do."""
    return request.labels is None or _same(request.labels, request.answers)


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are the same file or folder."""
    # Unlike `Path.resolve`, this takes a link to itself.
    return os.path.realpath(one) == os.path.realpath(other)


def _finite(value: Any) -> Any:
    """A value of nothing but JSON: what is not a finite number is null."""
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
