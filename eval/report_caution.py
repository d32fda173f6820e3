"""What keeps a verdict from being an all-clear: unread answers, guessing, few images, parsers.

In: a section with its runs. Out: sentences that stand right behind the baseline's number, and
whether a run's difference says anything. Answers that nobody could read, a baseline that guesses
and a constant answer all look like "no loss", because there is nothing left to lose.
"""

from collections.abc import Sequence

from lvlm_prune.eval.benchmark import OFFICIAL
from lvlm_prune.eval.report_numbers import listed, score, shown
from lvlm_prune.eval.report_sections import Entry, Section, labelled

LEAST_UNITS = 30  # images behind an interval that is worth a conclusion
WIDEST = 0.05  # half of the interval of a difference, as a share of the scale
ODD = 0.05  # share of answers without a reading that has to be said
UNREADABLE = 0.2  # share of answers without a reading with which nothing is concluded
APART = 0.05  # spread of the parsers, as a share of the scale, that has to be said
# Where the main number stands for a coin: which number shows it, and the coin's share of its scale.
# A coin has 50 % of the answers and 25 % of the pairs right, which MME adds up to 75 of 200.
COIN = {
    "f1": ("accuracy", 0.5),
    "F1": ("Accuracy", 0.5),
    "aAcc": ("aAcc", 0.5),
    "pair_accuracy": ("pair_accuracy", 0.25),
    "score_mean": ("score_mean", 0.375),
}


def cautions(section: Section) -> list[str]:
    """Sentences, each about one thing that weakens every other sentence."""
    found = [*_unread(section), *_constant(section), *_guessing(section), *_parsers(section)]
    found += _few(section)
    if concludes_nothing(section):
        found.append("No conclusion about pruning: a run cannot lose what the baseline lacks.")
    return found


def concludes_nothing(section: Section) -> bool:
    """Whether the baseline is so bad that a run without a loss says nothing."""
    base = section.baseline
    if base is None:
        return False
    return unreadable(base) or bool(_constant(section) or _guessing(section))


def unreadable(entry: Entry) -> bool:
    """Whether too many answers were not read for a conclusion."""
    return _odd(entry) > UNREADABLE * entry.answered


def tells(section: Section, entry: Entry) -> bool:
    """Whether the difference of a run is known well enough for "no visible loss"."""
    gain = section.gain(entry)
    if gain is None or gain.low is None or gain.high is None or entry.units < LEAST_UNITS:
        return False
    return (gain.high - gain.low) / 2 <= WIDEST * section.scale


def too_few(section: Section, entries: Sequence[Entry]) -> str:
    """Why these runs are not called free of a visible loss."""
    widest = score(WIDEST * section.scale, section.scale)
    drawn = min(entry.units for entry in entries)
    reason = f"the differences are known less well than ±{widest}"
    if drawn < LEAST_UNITS:
        reason = f"{drawn} drawn, {LEAST_UNITS} are the least"
    return f"Too few images to tell which budget goes without a visible loss: {reason}."


def _few(section: Section) -> list[str]:
    """That gains and losses over few images may be chance: such intervals are too narrow."""
    decided = [e for e in section.compared if section.verdict(e) in ("better", "worse")]
    drawn = min((entry.units for entry in decided), default=LEAST_UNITS)
    if drawn >= LEAST_UNITS:
        return []
    return [
        f"Gains and losses may be chance: intervals over {drawn} images are too narrow, "
        f"{LEAST_UNITS} are the least."
    ]


def _odd(entry: Entry) -> int:
    """Answers that say neither of what was asked for, or nothing."""
    return int(entry.says["unparsed"] + entry.says["empty"])


def _unread(section: Section) -> list[str]:
    """Answers that no rule reads, of the baseline and of the worst run."""
    many = [e for e in section.entries if e.answered and _odd(e) > ODD * e.answered]
    if not many:
        return []
    base = section.baseline
    others = [entry for entry in many if entry is not base]
    worst = max(others, key=lambda e: _odd(e) / e.answered, default=None)
    shown_runs = [entry for entry in (base, worst) if entry is not None and entry in many]
    sentences = [
        f"{_odd(e):,} of {e.answered:,} answers of `{labelled(e)}` {_names(section)}{_read_as(e)}."
        for e in shown_runs
    ]
    if len(others) > 1:
        share = shown(100 * ODD, 0)
        sentences[-1] += f" {len(others)} pruned runs have more than {share} % of such answers."
    return [" ".join(sentences)]


def _names(section: Section) -> str:
    """What is wrong with an answer without a reading."""
    yes_no = any(entry.says["yes"] + entry.says["no"] for entry in section.entries)
    return "name neither yes nor no" if yes_no else "cannot be read"


def _read_as(entry: Entry) -> str:
    """What the official script makes of them, as far as its yes-ratio shows it."""
    ratio = entry.parsers.get(OFFICIAL, {}).get("yes_ratio")
    if ratio is None:
        return " and are scored as the official script scores them"
    extra, slack = ratio.value * entry.answered - entry.says["yes"], 0.01 * entry.answered
    if abs(extra - _odd(entry)) <= slack:
        return " and are read as yes"
    if abs(extra) <= slack:
        return " and are not read as yes"
    return " and are partly read as yes"


def _constant(section: Section) -> list[str]:
    """A baseline that says the same to everything."""
    base = section.baseline
    if base is None or not base.answered:
        return []
    return [
        f"The baseline answers {word} to everything: its numbers tell how the labels are "
        "distributed, not what was seen."
        for word in ("yes", "no")
        if base.says[word] == base.answered
    ]


def _guessing(section: Section) -> list[str]:
    """A baseline that is no better than a coin, or at zero."""
    base = section.baseline
    if base is None or base.headline is None:
        return []
    numbers = {**base.parsers.get(OFFICIAL, {}), section.metric: base.headline}
    # Of rates of made-up objects zero is the best value, but not for who names nothing at all.
    floors = section.beside if section.lower_is_better else (section.metric,)
    zero = [name for name in floors if name in numbers and numbers[name].value <= 0]
    if zero:
        return [f"The baseline's {listed(zero)} is 0, so nothing lower can be seen."]
    name, share = COIN.get(section.metric, ("", 0.0))
    number = numbers.get(name)
    if number is None:
        return []
    coin, low = share * section.scale, number.value if number.low is None else number.low
    if low > coin:
        return []
    said, guessed = (score(value, section.scale) for value in (number.value, coin))
    where = "at or below guessing" if number.value <= coin else "not told apart from guessing"
    return [f"The baseline is {where}: {name} {said}, a coin has {guessed}."]


def _parsers(section: Section) -> list[str]:
    """The run on which the parsers disagree most, if they do."""
    widest, words = APART * section.scale, ""
    for entry in section.entries:
        found = {
            parser: numbers[section.metric].value
            for parser, numbers in entry.parsers.items()
            if section.metric in numbers
        }
        if len(found) < 2:
            continue
        low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        if found[high] - found[low] > widest:
            widest = found[high] - found[low]
            least, most = (score(found[name], section.scale) for name in (low, high))
            words = (
                f"Parsers disagree: {section.metric} of `{labelled(entry)}` is {most} by `{high}` "
                f"and {least} by `{low}`."
            )
    return [words] if words else []
