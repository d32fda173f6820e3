"""MME's scores (Fu et al., arXiv 2306.13394; eval tool, calculation.py).

In: lines with a label, two for each image of a task, one yes and one no, and raw answers. Out:
counts for each image, and from counts, for each task, `acc` (percent of right answers), `acc_plus`
(percent of pairs with both right) and their sum `score`, 0..200; always yes and always no give 50.
Perception and cognition are sums over the tasks that were asked, at most 2000 and 800. How many
were asked differs between runs, so the headline is `score_mean`, the mean over the tasks. A task
none of whose pairs was answered has no score, and a sum that it belongs to is not given
(`partial_sums`).

Lines are paired by task and image, never by position; a pair that is not complete is not scored,
and `incomplete` names it. An answer that a parser cannot read is wrong.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval import parsers
from lvlm_prune.eval.benchmark import OFFICIAL, Item, Scoring, Tally, Text
from lvlm_prune.eval.yes_no import Counts, check, share, unit_of

HALLUCINATION = ("existence", "count", "position", "color")
PERCEPTION = (*HALLUCINATION, "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = (
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
)
TASKS = (*PERCEPTION, *COGNITION)
_GROUPS = {"perception": PERCEPTION, "cognition": COGNITION, "hallucination": HALLUCINATION}
_COUNTED = ("right", "both", "pairs")
_READ: Mapping[str, Callable[[str], str]] = {
    OFFICIAL: parsers.mme_official,
    "lmms-eval": parsers.mme_stripped,
    "vlmevalkit": parsers.one_of_two,
    "first-word": parsers.first_word,
}


def tally(items: Sequence[Item], answers: Sequence[Text], parser: str = OFFICIAL) -> Tally:
    """Count for each image what its answers say and which pairs are right.

    Args:
        items: lines of one or more tasks, in any order.
        answers: raw answers, one for each line; None is a failed call, and its pair is left out.
        parser: how answers are read.

    Returns:
        For each task with a complete pair `right`, `both` and `pairs`, of complete pairs; a task
        without any has no column and so no score. `said/yes`, `said/no`, `said/unparsed` and
        `said/empty` of all answers.

    Raises:
        ValueError: different numbers of lines and answers, or a label that is neither yes nor no.
    """
    check(items, answers)
    whole = _pairs(items, answers)[0]
    tasks = sorted(dict.fromkeys(pair[0][0].split for pair in whole), key=_task_order)
    counts = Counts(items, [f"{task}/{count}" for task in tasks for count in _COUNTED])
    for item, answer in zip(items, answers, strict=True):
        if answer is not None:
            counts.add(item, f"said/{_parse(item, answer, parser)}")
    for pair in whole:
        right = [_right(item, answer, parser) for item, answer in pair]
        item = pair[0][0]
        for name, count in zip(_COUNTED, (sum(right), all(right), 1), strict=True):
            counts.add(item, f"{item.split}/{name}", count)
    return counts.tally()


def metrics(
    columns: tuple[str, ...],
    counts: NDArray[Any],
    parser: str = OFFICIAL,
    nothing: float = 0.0,
) -> dict[str, NDArray[np.float64]]:
    """The numbers of each task and their sums.

    Args:
        columns: of a `tally`.
        counts: sums of its counts, `[..., columns]`.
        parser: what the answers were read with; all are scored alike.
        nothing: the number where there is nothing to divide by.

    Returns:
        `existence/score`, `existence/acc`, `existence/acc_plus` and so on, `score_mean`,
        `perception` and `cognition` if a task of theirs was scored, and `hallucination` if its four
        tasks were, `[...]` each.
    """
    tasks = [name.removesuffix("/pairs") for name in columns if name.endswith("/pairs")]
    place = {name: place for place, name in enumerate(columns)}
    named: dict[str, NDArray[np.float64]] = {}
    scores: dict[str, NDArray[np.float64]] = {}
    for task in tasks:
        right, both, pairs = (counts[..., place[f"{task}/{name}"]] for name in _COUNTED)
        found = numbers_of(right, both, pairs, nothing)
        scores[task] = found["score"]
        named |= {f"{task}/{name}": value for name, value in found.items()}
    if not tasks:
        return {}
    sums = {"score_mean": np.asarray(sum(scores.values()) / len(tasks), np.float64)}
    for group, members in _GROUPS.items():
        asked = [scores[task] for task in members if task in scores]
        if asked and (group != "hallucination" or len(asked) == len(members)):
            sums[group] = np.asarray(sum(asked), np.float64)
    return {**sums, **named}


def layout(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers of one run, named as MME names them.

    Args:
        numbers: of `metrics`, one number each.

    Returns:
        `perception`, `cognition` and `hallucination` where their tasks were asked, `score_mean`,
        `tasks` with the score of each, and `details` with its `acc` and `acc_plus`.
    """
    scores = {name[:-6]: float(value) for name, value in numbers.items() if name[-6:] == "/score"}
    details = {
        task: {name: float(numbers[f"{task}/{name}"]) for name in ("acc", "acc_plus")}
        for task in scores
    }
    sums = {name: float(numbers[name]) for name in (*_GROUPS, "score_mean") if name in numbers}
    return {**sums, "tasks": scores, "details": details}


def numbers_of(
    right: Any, both: Any, pairs: Any, nothing: float = 0.0
) -> dict[str, NDArray[np.float64]]:
    """Score, accuracy and accuracy+ of one task, in percent, from its counts, `[...]` each."""
    right, both, pairs = (np.asarray(each, np.float64) for each in (right, both, pairs))
    acc, acc_plus = 100 * share(right, 2 * pairs, nothing), 100 * share(both, pairs, nothing)
    return {"score": acc + acc_plus, "acc": acc, "acc_plus": acc_plus}


def scored_tasks(items: Sequence[Item], texts: Sequence[Text]) -> frozenset[str]:
    """Tasks with a complete pair of answers."""
    return frozenset(pair[0][0].split for pair in _pairs(items, texts)[0])


def partial_sums(asked: Iterable[str], scored: Collection[str]) -> dict[str, list[str]]:
    """Which sums lack a task that was asked, and would be too low without a sign of it.

    Args:
        asked: all tasks of the benchmark.
        scored: tasks with a score (`scored_tasks`).

    Returns:
        For each group, such as `perception`, its tasks that were asked and have no score.
    """
    missing = [task for task in dict.fromkeys(asked) if task not in scored]
    sums = {
        group: [task for task in missing if task in members] for group, members in _GROUPS.items()
    }
    return {group: tasks for group, tasks in sums.items() if tasks}


def partial_notes(lacking: Mapping[str, Sequence[str]]) -> list[str]:
    """Sentences on sums that are not given, from `partial_sums`."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for group, tasks in lacking.items():
        groups.setdefault(tuple(tasks), []).append(group)
    return [
        f"no {' and no '.join(sums)} sum: {', '.join(tasks)} {'has' if len(tasks) == 1 else 'have'}"
        " no complete pair of answers, and so no score."
        for tasks, sums in groups.items()
    ]


def incomplete(items: Sequence[Item], texts: Sequence[Text]) -> list[str]:
    """Which pairs are not scored.

    Args:
        items: lines, in any order.
        texts: raw answers, one for each line; None is a failed call.

    Returns:
        Task and image of each line that lacks its partner or whose pair lacks an answer, such as
        `count/000000006040.jpg`, each once.

    Raises:
        ValueError: different numbers of lines and answers, or a label that is neither yes nor no.
    """
    check(items, texts)
    return _pairs(items, texts)[1]


def _pairs(
    items: Sequence[Item], answers: Sequence[Text]
) -> tuple[list[list[tuple[Item, str]]], list[str]]:
    """Complete pairs, the yes question first, and the names of the others.

    Where an image has several pairs in a task, the first yes goes with the first no.
    """
    asked: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: {"yes": [], "no": []})
    for number, item in enumerate(items):
        asked[item.split, unit_of(item)][item.label].append(number)
    whole: list[list[tuple[Item, str]]] = []
    left: list[str] = []
    for (task, image), found in asked.items():
        complete = len(found["yes"]) == len(found["no"])
        for numbers in zip(found["yes"], found["no"], strict=False):
            pair = [(items[number], answers[number]) for number in numbers]
            answered = [(item, answer) for item, answer in pair if answer is not None]
            complete = complete and len(answered) == len(pair)
            whole += [answered] if len(answered) == len(pair) else []
        left += [] if complete else [image if image.startswith(f"{task}/") else f"{task}/{image}"]
    return whole, left


def _parse(item: Item, answer: str, parser: str) -> str:
    """What an answer says."""
    if parser not in _READ:
        raise ValueError(f"no MME parser {parser!r}; there are {', '.join(_READ)}")
    return _READ[parser](answer)


def _right(item: Item, answer: str, parser: str) -> bool:
    """Whether an answer is right."""
    return _parse(item, answer, parser) == item.label


def _task_order(task: str) -> int:
    """MME's own tasks in their usual order, then all others as they come."""
    return TASKS.index(task) if task in TASKS else len(TASKS)


SCORING = Scoring(
    name="mme",
    parsers=tuple(_READ),
    headline="score_mean",
    parse=_parse,
    right=_right,
    tally=tally,
    metrics=metrics,
    layout=layout,
    scale=200.0,
)
