"""MME's eval-tool files: one `<task>.txt` a task, lines `image<TAB>question<TAB>label<TAB>answer`.

In: the folder, or one such file. Out: answers that know their task, image, question and label, so
nothing is paired by line. The official tool splits each line at every tab and crashes on more or
fewer than four parts (arXiv 2306.13394, calculation.py); here these are named errors.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lvlm_prune.eval.answer_files_contract import Answer
from lvlm_prune.eval.answer_files_text import decode, lines_of, read_bytes
from lvlm_prune.eval.mme_scoring import TASKS
from lvlm_prune.eval.score_error import ScoreError

# Images of each task in the release: without labels nothing else tells that a pair is lost.
IMAGES = {
    **dict.fromkeys(("existence", "count", "position", "color"), 30),
    **dict.fromkeys(("scene", "landmark", "artwork"), 200),
    **dict.fromkeys(("OCR", "numerical_calculation", "text_translation", "code_reasoning"), 20),
    "posters": 147,
    "celebrity": 170,
    "commonsense_reasoning": 70,
}


def is_mme_folder(path: Path) -> bool:
    """Whether there is a text file in the folder."""
    return path.is_dir() and any(path.glob("*.txt"))


def is_mme_line(line: str) -> bool:
    """Whether a line is an image, a question, Yes or No, and perhaps an answer."""
    parts = line.split("\t")
    return len(parts) >= 3 and parts[2].strip().lower() in ("yes", "no")


def read_folder(folder: Path) -> tuple[list[Answer], list[str]]:
    """The answers of all tasks, in the order of the official tool, and notes on other files.

    Raises:
        ScoreError: no task at all (`missing_task`), or whatever `read_task` raises.
    """
    there = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    tasks = [task for task in TASKS if task in there]
    if not tasks:
        raise ScoreError(
            "missing_task", f"{folder} has no file of an MME task; they are called {_names(TASKS)}"
        )
    answers = [answer for task in tasks for answer in read_task(there[task])]
    others = sorted(set(there) - set(tasks))
    notes = [f"files of no MME task are left out: {', '.join(others)}"] if others else []
    return answers, notes


def read_task(path: Path) -> list[Answer]:
    """The answers of one task's file.

    Raises:
        ScoreError: a blank line (`blank_line`), a line without an answer (`missing_column`), with a
            tab in its answer (`tab_in_answer`), or with a label that is neither yes nor no
            (`bad_label`).
    """
    answers = []
    for number, line in enumerate(lines_of(decode(read_bytes(path), path)), 1):
        place = f"{path.name} line {number}"
        if not line.strip():
            raise ScoreError("blank_line", f"{place} is blank")
        parts = line.split("\t")
        if len(parts) < 4:
            raise ScoreError(
                "missing_column",
                f"{place} has {len(parts)} columns; it needs image, question, label and answer",
            )
        if len(parts) > 4:
            raise ScoreError(
                "tab_in_answer",
                f"{place} has {len(parts)} columns: the answer {parts[3:]!r:.60} holds a tab; "
                "replace it by a space",
            )
        image, question, label, text = parts
        if label.lower() not in ("yes", "no"):
            raise ScoreError("bad_label", f"{place} has the label {label!r}; allowed: Yes, No")
        answers.append(
            Answer(text, place, image=image, question=question, split=path.stem, label=label)
        )
    return answers


def refuse_missing_tasks(answers: Sequence[Answer], wanted: Sequence[str]) -> None:
    """Check that every task was answered.

    Raises:
        ScoreError: some were not (`missing_task`).
    """
    missing = [task for task in wanted if task not in {answer.split for answer in answers}]
    if missing:
        raise ScoreError(
            "missing_task",
            f"no answers of {_names(missing)}; pass --subset with the tasks that you mean, or "
            "--allow-partial",
        )


def refuse_repeated(answers: Sequence[Answer]) -> None:
    """Check that files which are their own labels ask each question once.

    With labels beside them a second answer to a question is found by its line; here it would be a
    second question.

    Raises:
        ScoreError: a question with one label stands twice (`duplicate_id`), also with two answers.
    """
    places: dict[tuple[str | None, ...], list[Answer]] = {}
    for answer in answers:
        name = (answer.split, answer.image, answer.question, (answer.label or "").lower())
        places.setdefault(name, []).append(answer)
    twice = [several for several in places.values() if len(several) > 1]
    if twice:
        unlike = sum(len({answer.text for answer in several}) > 1 for several in twice)
        where = " and ".join(answer.place for answer in twice[0][:3])
        raise ScoreError(
            "duplicate_id",
            f"{len(twice)} questions stand more than once, {unlike} of them with different "
            f"answers, such as in {where}; the files are their own labels, so remove the lines "
            "that are too many, or pass MME itself as --labels",
        )


def questions_in_all(answers: Sequence[Answer], tasks: Sequence[str]) -> int:
    """How many questions MME asks in some of its tasks, or the files, if they hold more."""
    there = Counter(answer.split for answer in answers)
    return sum(max(2 * IMAGES[task], there[task]) for task in tasks)


def fewer_images(answers: Sequence[Answer], tasks: Sequence[str]) -> list[str]:
    """Notes on those of the tasks that have fewer images than in MME's release."""
    there = {(answer.split, answer.image) for answer in answers}
    counted = Counter(split for split, _ in there)
    return [
        f"{task} has {counted[task]} of MME's {IMAGES[task]} images; the answers are their own "
        f"labels, and the total counts all {2 * IMAGES[task]} questions"
        for task in tasks
        if counted[task] < IMAGES[task]
    ]


def _names(tasks: Sequence[str]) -> str:
    """File names of tasks."""
    return ", ".join(f"{task}.txt" for task in tasks)
