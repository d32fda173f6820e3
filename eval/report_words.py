"""The verdict of a report in plain words, made from its numbers alone.

In: a section with its runs. Out: sentences: what the unpruned model reaches, which runs lose
something that the sample can tell from chance and which do not, the fewest tokens without a visible
loss with its time, the largest shift towards yes or no, and failed calls. A run that shows no loss
is not said to have none: the loss that its interval still allows stands beside it, and where few
images were drawn or the baseline itself says nothing, that is said instead.
"""

from collections.abc import Sequence

from lvlm_prune.eval.report_caution import (
    cautions,
    concludes_nothing,
    tells,
    too_few,
    unreadable,
)
from lvlm_prune.eval.report_numbers import (
    counted,
    difference,
    interval,
    listed,
    percent,
    ratio,
    signed,
    tokens,
)
from lvlm_prune.eval.report_sections import Entry, Section, budget, budgets, labelled

FEW = 4  # runs that a sentence names


def verdict(section: Section) -> list[str]:
    """What a section says, a few sentences each about one thing."""
    sentences = [_baseline(section), *cautions(section)]
    for each in budgets(section.compared):
        sentences += _at_budget(section, [e for e in section.compared if budget(e) == each])
    sentences += [*_cheapest(section), *_shift(section), *_failed(section)]
    return [sentence for sentence in sentences if sentence]


def _baseline(section: Section) -> str:
    """What the unpruned model reaches, or that there is none."""
    base = section.baseline
    if base is None or base.headline is None:
        return "" if section.compared else "There is no baseline, so nothing is compared."
    lines = f"{base.answered:,} of {counted(base.lines, 'line')}"
    lines = counted(base.lines, "line") if base.answered == base.lines else lines
    better = ", lower is better" if section.lower_is_better else ""
    reached = interval(base.headline, section.scale)
    return f"{_capital(base.label)} reaches {section.metric} {reached} on {lines}{better}."


def _at_budget(section: Section, entries: Sequence[Entry]) -> list[str]:
    """Who loses and who does not, at one budget."""
    by: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda e: _worth(section, e), reverse=True):
        kind = section.verdict(entry)
        if unreadable(entry):
            kind = "unread"
        elif kind == "level" and not tells(section, entry):
            kind = "open"
        by.setdefault(kind, []).append(entry)
    verbs = {
        "better": ("gains", "gain"),
        "level": ("shows no difference beyond chance", "show no difference beyond chance"),
        "open": (
            "shows no difference, on too few images to tell",
            "show no difference, on too few images to tell",
        ),
        "worse": ("loses", "lose"),
        "unread": (
            "is not judged, as too many of its answers are not read",
            "are not judged, as too many of their answers are not read",
        ),
        "unknown": ("has too few images for an interval", "have too few images for an interval"),
    }
    clauses = [
        f"{_names(section, by[kind])} {one if len(by[kind]) == 1 else several}"
        for kind, (one, several) in verbs.items()
        if kind in by
    ]
    if not clauses:
        return []
    one = entries[0]
    share = percent(one.kept / one.total) if one.total else ""
    enter = " that enter the LLM" if section.staged else ""
    place = f"At {tokens(one.kept)} of {tokens(one.total)} tokens{enter} ({share})"
    return [f"{place}: {'; '.join(clauses)}."]


def _names(section: Section, entries: Sequence[Entry]) -> str:
    """Names with differences; of many, how many there are with the best and the worst."""
    names = [f"{e.label} ({_told(section, e)})" for e in entries]
    if len(entries) <= FEW:
        return listed(names)
    return f"{len(entries)} runs, from {names[0]} to {names[-1]},"


def _told(section: Section, entry: Entry) -> str:
    """Its difference, and of captions that of the recall."""
    told = [difference(section.gain(entry), section.scale)]
    told += [
        f"{name} {difference(entry.differences.get(name), section.scale)}"
        for name in section.beside
    ]
    return "; ".join(told)


def _cheapest(section: Section) -> list[str]:
    """The fewest tokens without a visible loss."""
    if concludes_nothing(section):
        return []
    fewer = [e for e in section.compared if e.spent < e.total]
    read = [e for e in fewer if not unreadable(e)]
    lost = [e for e in read if section.verdict(e) == "worse"]
    if len(lost) == len(fewer) > 1:
        return ["Every run with fewer tokens loses."]
    hopeful = [e for e in read if e not in lost and _names_as_much(section, e)]
    fine = [e for e in hopeful if tells(section, e)]
    if not fine:
        return [too_few(section, hopeful)] if hopeful else []
    best = min(fine, key=lambda e: (round(e.spent), -_worth(section, e)))
    gain = section.gain(best)
    allowed = ""
    if gain is not None and gain.low is not None and gain.high is not None:
        end = gain.high if section.lower_is_better else gain.low
        loss = end > 0 if section.lower_is_better else end < 0
        said = signed(end, section.scale)
        allowed = f"; its interval still allows a change of {said}" if loss else ""
    time = ""
    if best.llm_ratio is not None and best.total_ratio is not None:
        time = (
            f" It takes {ratio(best.llm_ratio)} of the unpruned LLM prefill time and "
            f"{ratio(best.total_ratio)} of the time to the first token."
        )
    inside = f" ({tokens(best.spent)} on average over layers)" if best.average is not None else ""
    return [f"The fewest tokens without a visible loss: {labelled(best)}{inside}{allowed}.{time}"]


def _shift(section: Section) -> list[str]:
    """The run that most changed how often it says yes."""
    moved = [e for e in section.compared if e.answers and e.answers["yes_shift"]]
    if not moved:
        return []
    most = max(moved, key=lambda e: abs(_yes_shift(e)))
    way = "yes" if _yes_shift(most) > 0 else "no"
    shift = signed(_yes_shift(most), 1)
    return [f"The largest shift of the yes-ratio is {shift}, towards {way}: {labelled(most)}."]


def _failed(section: Section) -> list[str]:
    """Calls that failed and lines that were not answered."""
    failed = {e.run: e.says["error"] for e in section.entries if e.says["error"]}
    missing = [e for e in section.entries if e.answered + e.says["error"] < e.lines]
    words = []
    if failed:
        lines, runs = counted(sum(failed.values()), "line"), counted(len(failed), "run")
        words.append(f"Failed calls: {lines} in {runs}.")
    if missing:
        words.append(f"{counted(len(missing), 'run')} did not answer all lines.")
    return words


def _names_as_much(section: Section, entry: Entry) -> bool:
    """Whether no loss of recall is visible, for captions."""
    found = [entry.differences.get(name) for name in section.beside]
    return not any(each and each.high is not None and each.high < 0 for each in found)


def _worth(section: Section, entry: Entry) -> float:
    """The difference, higher is better."""
    gain = section.gain(entry)
    value = 0.0 if gain is None else gain.value
    return -value if section.lower_is_better else value


def _yes_shift(entry: Entry) -> float:
    """Shift of the yes-ratio of an entry with answers."""
    return float((entry.answers or {})["yes_shift"])


def _capital(text: str) -> str:
    """A name at the beginning of a sentence."""
    return "The unpruned model" if text == "unpruned" else text
