"""Which benchmark line does an answer belong to?

In: a benchmark and the answers of a file. Out: each line that was answered with its answer. Answers
are joined by name wherever their format has one, by what their file repeats of the question (split,
image, text, label) where it has none, and line by line, each question's text compared, where there
is nothing else (`join_in_order`). What does not fit is refused: an answer to another question is
worse than none. A part of the lines is scored only if that is allowed, and said.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lvlm_prune.eval.answer_files_contract import Answer, AnswerFile, image_number, plain
from lvlm_prune.eval.benchmark import Benchmark, Item, Text
from lvlm_prune.eval.image_names import by_image
from lvlm_prune.eval.join_in_order import asks, in_order, plain_question
from lvlm_prune.eval.score_error import ScoreError

SHOWN = 5  # names in a message
WITHOUT_NAMES = ("pope", "strings")  # formats that are joined line by line

Pairs = list[tuple[Item, Answer]]
Lines = Mapping[object, list[Item]]
Found = tuple[Lines, list[object]]  # lines by name, and the name of each answer
# Whether a part may be scored, to lines with answers, answers after the last line, and notes.
Way = Callable[[bool], tuple[Pairs, list[Answer], list[str]]]


@dataclass(frozen=True)
class Joined:
    """Lines with their answers.

    Args:
        items: lines with an answer, in the benchmark's order; a failed call is an answer too.
        texts: their raw answers; None is a failed call.
        total: lines of the benchmark.
        surplus: raw answers after the last line.
        notes: sentences on what was left out.
    """

    items: tuple[Item, ...]
    texts: tuple[Text, ...]
    total: int
    surplus: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def answered(self) -> tuple[list[Item], list[str]]:
        """Lines without failed calls, and their answers."""
        pairs = [
            (item, text)
            for item, text in zip(self.items, self.texts, strict=True)
            if text is not None
        ]
        return [item for item, _ in pairs], [text for _, text in pairs]


def join(benchmark: Benchmark, file: AnswerFile, allow_partial: bool = False) -> Joined:
    """Join the answers of a file to the lines of a benchmark.

    Args:
        benchmark: its lines.
        file: answers.
        allow_partial: score what is there when lines are missing or answered twice.

    Raises:
        ScoreError: an answer belongs to no line (`unknown_ids`), a line is answered twice
            (`duplicate_id`), not at all (`missing_ids`), or with another question's text
            (`question_mismatch`); more in `join_in_order`.
    """
    answers, notes = _of_these_splits(benchmark.items, file.answers)
    ways = _ways(benchmark, answers, file.format in WITHOUT_NAMES)
    if not ways:
        raise ScoreError("unknown_ids", _unknown(answers, benchmark))
    refused: list[ScoreError] = []
    for way in ways:
        try:
            pairs, surplus, said = way(False)
        except ScoreError as error:
            refused.append(error)
            continue
        return _joined(benchmark, pairs, surplus, [*file.notes, *notes, *said])
    if not allow_partial:
        raise refused[0]
    pairs, surplus, said = ways[0](True)
    return _joined(benchmark, pairs, surplus, [*file.notes, *notes, *said])


def _ways(benchmark: Benchmark, answers: list[Answer], nameless: bool) -> list[Way]:
    """How these answers might be joined, the most telling way first.

    The first way that leaves nothing over is right; a part is joined by the first way alone, since
    a weaker one would find some line for almost any answer.
    """
    ours = any(answer.items for answer in answers)
    answers = [
        replace(answer, id=name) for answer in answers for name in (answer.items or (answer.id,))
    ]
    in_turn = partial(in_order, benchmark.items, answers)
    if nameless:
        return [in_turn]
    images = None if ours else by_image(benchmark.items, answers)
    by_name: list[Found | None] = [images or _by_id(benchmark.items, answers)]
    by_name += [] if ours or images else [_by_parts(benchmark.items, answers)]
    ways: list[Way] = [
        partial(_pairs, benchmark, *found, answers, ours) for found in by_name if found is not None
    ]
    told = all(answer.question for answer in answers)
    return [*ways, in_turn] if told and not ours else ways


def _joined(
    benchmark: Benchmark, pairs: Pairs, surplus: Sequence[Answer], notes: Sequence[str]
) -> Joined:
    """Lines with answers, in the benchmark's order."""
    said = {item.id: answer.text for item, answer in pairs}
    items = tuple(item for item in benchmark.items if item.id in said)
    texts = tuple(said[item.id] for item in items)
    more = tuple(answer.text or "" for answer in surplus)
    return Joined(items, texts, len(benchmark.items), more, tuple(notes))


def _of_these_splits(
    items: Sequence[Item], answers: Sequence[Answer]
) -> tuple[list[Answer], list[str]]:
    """The answers to splits that the labels have, if they have some of the file's splits."""
    known = {item.split for item in items}
    others = sorted({answer.split for answer in answers if answer.split} - known)
    ours = [answer for answer in answers if answer.split in known or not answer.split]
    if not others or not any(answer.split for answer in ours):
        return list(answers), []
    return ours, [
        f"answers to {_few(others)}, which the labels do not have, left out: "
        f"{len(answers) - len(ours)}"
    ]


def _by_id(items: Sequence[Item], answers: Sequence[Answer]) -> tuple[Lines, list[object]] | None:
    """Lines by name and the name of each answer; None if no answer has the name of a line."""
    handles: dict[str, set[str]] = defaultdict(set)
    captions: dict[str, set[str]] = defaultdict(set)
    for item in items:
        called = {item.id.split("/", 1)[-1], item.id.rsplit("/", 1)[-1]}
        called |= {str(item.facts[key]) for key in ("question_id", "id") if key in item.facts}
        for name in called:
            handles[name].add(item.id)
        if item.image is not None and not item.label:
            captions[image_number(item.image)].add(item.id)
    lines: dict[object, list[Item]] = {item.id: [item] for item in items}
    names: list[object] = []
    for answer in answers:
        name = answer.id or ""
        found = set() if answer.items else handles.get(name) or captions.get(image_number(name))
        names.append(next(iter(found)) if found and len(found) == 1 else answer.id)
    return (lines, names) if any(name in lines for name in names) else None


def _by_parts(
    items: Sequence[Item], answers: Sequence[Answer]
) -> tuple[Lines, list[object]] | None:
    """Lines by what all answers repeat of them; None if that does not tell the lines apart."""
    asked, said = [_line_parts(item) for item in items], [_answer_parts(one) for one in answers]
    shared = [
        part
        for part in dict.fromkeys(part for each in said for part in each)
        if all(part in each for each in (*asked, *said))
        and {each[part] for each in asked} & {each[part] for each in said}
    ]
    lines: dict[object, list[Item]] = defaultdict(list)
    for item, parts in zip(items, asked, strict=True):
        lines[tuple(parts[part] for part in shared)].append(item)
    if not shared or not all(_interchangeable(same) for same in lines.values()):
        return None
    return lines, [tuple(each[part] for part in shared) for each in said]


def _line_parts(item: Item) -> dict[str, str]:
    """What a file of answers might repeat of a line."""
    parts = {"split": item.split, "question": plain_question(item.question)}
    parts |= {} if item.image is None else {"image": image_number(item.image)}
    parts |= {"label": item.label.lower()} if item.label else {}
    facts = {name: plain(fact) for name, fact in item.facts.items()}
    return parts | {name: fact for name, fact in facts.items() if fact is not None}


def _answer_parts(answer: Answer) -> dict[str, str]:
    """What an answer repeats of its line."""
    parts = {
        "split": answer.split,
        "question": None if answer.question is None else plain_question(answer.question),
        "image": None if answer.image is None else image_number(answer.image),
        "label": None if answer.label is None else answer.label.strip().lower(),
    }
    return {name: part for name, part in parts.items() if part is not None} | dict(answer.facts)


def _interchangeable(items: Sequence[Item]) -> bool:
    """Whether it makes no difference which of the lines an answer is given to.

    POPE counts single answers; everywhere else the lines of an image are scored together.
    """
    if len(items) == 1:
        return True
    alone = all(item.benchmark == "pope" for item in items)
    image = [None] * len(items) if alone else [item.image for item in items]
    seen = {(item.split, item.label, name) for item, name in zip(items, image, strict=True)}
    return len(seen) == 1 and bool(items[0].label)


def _pairs(
    benchmark: Benchmark,
    lines: Lines,
    names: Sequence[object],
    answers: Sequence[Answer],
    ours: bool,
    allow_partial: bool,
) -> tuple[Pairs, list[Answer], list[str]]:
    """Each line with its answer, and what was left out."""
    unknown = [answer for name, answer in zip(names, answers, strict=True) if name not in lines]
    if unknown and not (allow_partial or ours):
        raise ScoreError("unknown_ids", _unknown(unknown, benchmark))
    given: dict[object, list[Answer]] = defaultdict(list)
    for name, answer in zip(names, answers, strict=True):
        if name in lines:
            given[name].append(answer)
    for name, several in given.items():
        _refuse_other_questions(lines[name], several)
    pairs = [
        pair for name, several in given.items() for pair in zip(lines[name], several, strict=False)
    ]
    twice = {name: several for name, several in given.items() if len(several) > len(lines[name])}
    if twice and not allow_partial:
        raise ScoreError("duplicate_id", _twice(twice, lines))
    answered = {item.id for item, _ in pairs}
    missing = [item.id for item in benchmark.items if item.id not in answered]
    if missing and not allow_partial:
        raise ScoreError(
            "missing_ids",
            f"{len(missing)} of {len(benchmark.items)} lines have no answer: {_few(missing)}; "
            f"{_whole_splits(benchmark.items, answered)}--allow-partial scores the others",
        )
    notes = [] if not unknown else [f"answers to no line of the labels, left out: {len(unknown)}"]
    if twice:
        unlike = sum(len({answer.text for answer in several}) > 1 for several in twice.values())
        notes.append(
            f"lines answered more than once: {len(twice)}, not alike in {unlike}; the first answer "
            "counts"
        )
    return pairs, [], notes


def _refuse_other_questions(items: Sequence[Item], answers: Sequence[Answer]) -> None:
    """Compare the question's text where an answer repeats it; captions may be asked for at will.

    Raises:
        ScoreError: it is another one (`question_mismatch`).
    """
    for answer in answers if items[0].label else []:
        if answer.question is not None and not asks(answer.question, items[0].question):
            raise ScoreError(
                "question_mismatch",
                f"{answer.place} answers {answer.question!r:.90}, but {items[0].id} asks "
                f"{items[0].question!r:.90}; the labels are of another version or split",
            )


def _whole_splits(items: Sequence[Item], answered: Collection[str]) -> str:
    """A hint at the splits that were answered in full."""
    lacking = {item.split for item in items if item.id not in answered}
    whole = list(dict.fromkeys(item.split for item in items if item.split not in lacking))
    return f"--subset scores what is complete ({_few(whole)}), " if whole else ""


def _twice(twice: Mapping[object, list[Answer]], lines: Lines) -> str:
    """Which lines are answered more than once, and where."""
    name, several = next(iter(twice.items()))
    places = " and ".join(answer.place for answer in several[:3])
    return (
        f"{len(twice)} lines are answered more than once, such as {lines[name][0].id} in {places}; "
        "--allow-partial takes the first answer of each"
    )


def _unknown(answers: Sequence[Answer], benchmark: Benchmark) -> str:
    """Which answers belong to nothing."""
    called = [answer.id or answer.image or answer.place for answer in answers]
    return (
        f"{len(answers)} answers belong to no line of the labels, such as {_few(called)}; the "
        f"labels have {_few([item.id for item in benchmark.items])}; pass the labels that these "
        "answers were made from, all splits of them if the answers are to all"
    )


def _few(names: Sequence[object]) -> str:
    """The first names."""
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more
