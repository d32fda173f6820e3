"""The numbers of joined answers, parser by parser, with or without the packages that some need.

In: the lines of each scoring rule with their answers. Out: for each parser the counts of what the
answers say and the official layout. Where several parsers are asked for, a rule that needs a
package which is not there is left out under that parser, and named; where one is, that is an error.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lvlm_prune.eval.benchmark import OFFICIAL, Scoring, Tally
from lvlm_prune.eval.join import Joined
from lvlm_prune.eval.score_error import ScoreError

Parts = Mapping[str, tuple[Scoring, Joined]]
SAYS = ("yes", "no", "unparsed", "empty")
MERGED = "amber"  # whose two rules the official script prints as one object


def by_parser(
    parts: Parts, joined: Joined, wanted: Sequence[str], without: Collection[str] = ()
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The numbers of each parser, and notes on what needs a package that is not there.

    Args:
        parts: lines of each scoring rule.
        joined: all lines.
        wanted: names of parsers.
        without: names of numbers that are not given, such as MME's `perception`.

    Raises:
        ScoreError: nothing can be scored without the package, or the only parser cannot
            (`missing_package`); the labels cannot be scored (`bad_labels`).
    """
    found: dict[str, dict[str, Any]] = {}
    absent: dict[tuple[str, str], list[str]] = {}
    for parser in wanted:
        try:
            numbers, reasons = _numbers(parts, joined, parser, without)
        except (ValueError, TypeError) as error:
            raise ScoreError("bad_labels", str(error)) from error
        for key, reason in reasons.items():
            absent.setdefault((key, reason), []).append(parser)
        if len(reasons) < len(parts):
            found[parser] = numbers
    if not found or (absent and len(wanted) == 1):
        reason = next(reason for _, reason in absent)
        raise ScoreError("missing_package", _next_step(reason, parts, wanted))
    return found, [
        f"{key} is left out under {', '.join(parsers)}: {reason}"
        for (key, reason), parsers in absent.items()
    ]


def _numbers(
    parts: Parts, joined: Joined, parser: str, without: Collection[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Counts and layout of one parser, and why which rules are left out.

    Rules that do not know the parser use the official one.
    """
    counts: Counter[str] = Counter()
    layouts: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    for key, (scoring, part) in parts.items():
        own = parser if parser in scoring.parsers else OFFICIAL
        try:
            tally = scoring.tally(*part.answered, own)
        except ImportError as error:
            absent[key] = str(error)
            counts.update(_says(scoring, part, None, own))
            continue
        counts.update(_says(scoring, part, tally, own))
        values = scoring.metrics(tally.columns, tally.total, own)
        kept = {name: float(value) for name, value in values.items() if name not in without}
        layouts[key] = scoring.layout(kept)
        if joined.surplus and key == "pope" and own == OFFICIAL:
            layouts[key]["yes_ratio"] = _yes_ratio(scoring, part)
    says = {name: counts[name] for name in SAYS}
    says["error"] = sum(text is None for text in joined.texts)
    if len(parts) == 1 or all(key.startswith(MERGED) for key in parts):
        numbers = {name: value for each in layouts.values() for name, value in each.items()}
        return {"counts": says, **numbers}, absent
    return {"counts": says, **layouts}, absent


def _says(scoring: Scoring, part: Joined, tally: Tally | None, parser: str) -> dict[str, int]:
    """How many answers say yes, no, neither or nothing.

    Where the rule counts this itself its counts are taken: POPE's script reads an answer without
    either word as a yes, and here it is still `unparsed`.
    """
    sums = {} if tally is None else dict(zip(tally.columns, tally.total.tolist(), strict=True))
    if "said/unparsed" in sums:
        return {name: int(sums.get(f"said/{name}", 0)) for name in SAYS}
    said = Counter(
        scoring.parse(item, text, parser) if text.strip() else "empty"
        for item, text in zip(*part.answered, strict=True)
    )
    return {name: said[name] for name in SAYS}


def _yes_ratio(scoring: Scoring, part: Joined) -> float:
    """POPE's share of yes, whose script counts the answers after the last line too."""
    texts = [text for text in (*part.texts, *part.surplus) if text is not None]
    return sum(scoring.parse(part.items[0], text, OFFICIAL) == "yes" for text in texts) / len(texts)


def _next_step(reason: str, parts: Parts, wanted: Sequence[str]) -> str:
    """Why nothing was scored, and what can be without the package."""
    if "amber_generative" not in parts or "words" in wanted:
        return reason
    others = ["--parser words needs no tagger", "nor do answers that are nouns between spaces"]
    others += ["--parser all shows whatever can be scored"]
    if "amber" in parts:
        others.append("--subset discriminative scores the yes/no questions alone")
    return f"{reason}; {', '.join(others)}"
