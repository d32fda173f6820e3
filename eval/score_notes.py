"""What stands beside a score: which answers no number is about, and what cannot be scored at all.

In: the answered lines of each scoring rule, and their numbers. Out: sentences, or a named error for
what MME's tool crashes on. The numbers themselves are `score`'s.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lvlm_prune.eval.answer_files import MME
from lvlm_prune.eval.benchmark import OFFICIAL, Scoring
from lvlm_prune.eval.join import Joined
from lvlm_prune.eval.mme_scoring import incomplete, scored_tasks
from lvlm_prune.eval.score_error import ScoreError
from lvlm_prune.eval.score_numbers import Parts


def refuse_unscorable(
    scoring: Scoring, part: Joined, parsers: Sequence[str], allow_partial: bool
) -> None:
    """Name what MME's tool crashes on.

    Raises:
        ScoreError: a pair without one of its answers (`incomplete_pair`), or a task none of whose
            answers is read (`nothing_parsed`).
    """
    if scoring.name != MME:
        return
    lonely = incomplete(part.items, part.texts)
    if lonely and not allow_partial:
        raise ScoreError(
            "incomplete_pair",
            f"images without one of their two answers: {len(lonely)}, such as "
            f"{', '.join(lonely[:5])}; --allow-partial scores the other pairs",
        )
    if not scored_tasks(part.items, part.texts):
        raise ScoreError("incomplete_pair", "no image has both of its answers: there is no pair")
    if OFFICIAL in parsers:
        read: dict[str, bool] = {}
        for item, text in zip(part.items, part.texts, strict=True):
            said = "" if text is None else scoring.parse(item, text, OFFICIAL)
            read[item.split] = read.get(item.split, False) or said in ("yes", "no")
        silent = [task for task, some in read.items() if not some]
        if silent:
            others = [name for name in scoring.parsers if name != OFFICIAL]
            raise ScoreError(
                "nothing_parsed",
                f"no answer of {', '.join(silent)} begins with yes or no, where the official tool "
                f"crashes; --parser {' or '.join(others)} reads more",
            )


def notes_on(joined: Joined, numbers: Mapping[str, Any], parts: Parts) -> list[str]:
    """What a reader has to know beside the numbers."""
    notes = []
    counts = numbers["counts"]
    answered = sum(text is not None for text in joined.texts)
    if answered < joined.total:
        notes.append(f"{answered}/{joined.total} lines are scored; the others have no answer")
    if counts["error"]:
        notes.append(f"failed calls, left out of every number: {counts['error']}")
    notes += [
        f"every answer says {word}: the numbers are those of a constant answer, and tell how the "
        "labels are distributed"
        for word in ("yes", "no")
        if counts[word] == answered
    ]
    if "pope" in parts and numbers.get("pope", numbers)["yes_ratio"] == 0:
        notes.append(
            "no answer says yes: precision, recall and f1 are 0, where the official script divides "
            "by zero"
        )
    if "chair" in parts:
        from lvlm_prune.eval.chair import notes as caption_notes

        notes += caption_notes(numbers)
    for scoring, part in parts.values():
        lonely = incomplete(part.items, part.texts) if scoring.name == MME else []
        if lonely:
            notes.append(f"incomplete pairs, left out: {len(lonely)} ({', '.join(lonely[:20])})")
    return notes
