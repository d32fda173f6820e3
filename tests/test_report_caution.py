"""No all-clear from answers that nobody read, from a guessing baseline, or from a few images."""

import json
from dataclasses import replace

import pytest
from made_up_results import results_of
from made_up_runs import benchmark, rows_of

from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.bootstrap import Number
from lvlm_prune.eval.paired import paired
from lvlm_prune.eval.pope_scoring import SCORING
from lvlm_prune.eval.report_caution import LEAST_UNITS, cautions
from lvlm_prune.eval.report_guide import guide_parts
from lvlm_prune.eval.report_sections import sections_of
from lvlm_prune.eval.report_words import verdict
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.scored import scored

ALL_CLEAR = "The fewest tokens without a visible loss"


@pytest.fixture(scope="module")
def spots():
    """40 images, parsers that agree, a baseline that is mostly right."""
    values = json.loads(json.dumps(results_of(benchmark(images=40))))
    for run in values["runs"]:
        parsers = run["benchmarks"]["haunted"]["spots"]["parsers"]
        parsers["strict"] = parsers["official"]
    return sections_of(values)[0]


def entries(section, **changes):
    """The section with changes of its baseline."""
    first, *others = section.entries
    return replace(section, entries=(replace(first, **changes), *others))


def level(section, half, units):
    """All runs level with the baseline, known to ± half."""
    changed = tuple(
        replace(
            entry,
            units=units,
            differences={} if entry.baseline else {"f1": Number(0.0, -half, half)},
        )
        for entry in section.entries
    )
    return replace(section, entries=changed)


def pope(say, images=40):
    """A section of POPE's own rule, where `say` answers for the baseline and one run."""
    items = tuple(
        Item(f"{split}/{n}/{label}", f"{n}.png", f"{split} {label}?", label, "pope", split)
        for split in ("random", "popular")
        for n in range(images)
        for label in ("yes", "no")
    )
    bench = Benchmark(
        "pope", items, {}, {"pope": SCORING}, {"pope": 4}, {"pope.json": "00"}, "made up"
    )
    blocks, rows = [], []
    for run in range(2):
        texts = [say(run, number, item) for number, item in enumerate(items)]
        rows.append(
            [
                Row(i.id, (i.id,), i.image, i.question, i.question, text, {}, None)
                for i, text in zip(items, texts, strict=True)
            ]
        )
        blocks.append(scored(bench, rows[-1]).to_dict())
    headline = {"metric": SCORING.headline, "scale": 1.0, "lower_is_better": False}
    common = {"method": "cls", "total": 196}
    runs = [
        {**common, "run": "u", "label": "unpruned", "kept": 196, "baseline": True},
        {**common, "run": "c", "label": "cls", "kept": 49, "baseline": False},
    ]
    runs[1]["against_baseline"] = {"pope": paired(bench, rows[1], rows[0]).to_dict()}
    for run, block in zip(runs, blocks, strict=True):
        run["benchmarks"] = {"pope": block}
    described = {"pope": {"headlines": {"pope": headline}}}
    return sections_of({"benchmarks": described, "runs": runs})[0]


def test_a_sound_section_has_no_cautions_and_an_all_clear(spots):
    assert cautions(spots) == []
    assert ALL_CLEAR in " ".join(verdict(level(spots, 0.02, 40)))


def test_answers_that_are_read_as_yes_are_counted_in_the_verdict():
    section = pope(lambda run, number, item: "Hm." if number % 2 else item.label.capitalize())
    text = " ".join(verdict(section))
    assert "80 of 160 answers of `unpruned` name neither yes nor no and are read as yes." in text
    assert "80 of 160 answers of `cls at 49` name neither yes nor no" in text
    assert ALL_CLEAR not in text
    assert "No conclusion about pruning" in text


def test_a_few_unread_answers_of_one_run_are_said_and_conclude_nothing_else():
    section = pope(lambda run, number, item: "Hm." if run and number % 10 == 1 else item.label)
    text = " ".join(cautions(section))
    assert "16 of 160 answers of `cls at 49` name neither yes nor no and are read as yes." in text
    assert "unpruned" not in text
    assert "No conclusion" not in text


def test_a_baseline_that_guesses_is_no_baseline():
    coin = pope(lambda run, number, item: ("yes", "no")[number % 4 // 2])
    text = " ".join(verdict(coin))
    assert "The baseline is at or below guessing: accuracy 0.500, a coin has 0.500." in text
    assert ALL_CLEAR not in text
    seeing = pope(lambda run, number, item: item.label)
    assert cautions(seeing) == []
    assert ALL_CLEAR in " ".join(verdict(seeing))


@pytest.mark.parametrize("word", ["yes", "no"])
def test_a_constant_answer_is_named(word):
    text = " ".join(verdict(pope(lambda run, number, item: word)))
    assert f"The baseline answers {word} to everything" in text
    assert ALL_CLEAR not in text


def test_a_baseline_at_zero_can_lose_nothing(spots):
    nothing = level(entries(spots, headline=Number(0.0, 0.0, 0.0)), 0.0, 40)
    text = " ".join(verdict(nothing))
    assert "The baseline's f1 is 0, so nothing lower can be seen." in text
    assert ALL_CLEAR not in text


@pytest.mark.parametrize(
    ("half", "units", "clear"),
    [(0.05, 30, True), (0.051, 30, False), (0.0, LEAST_UNITS - 1, False), (0.0, 2, False)],
)
def test_an_all_clear_takes_enough_images_and_a_narrow_interval(spots, half, units, clear):
    text = " ".join(verdict(level(spots, half, units)))
    assert (ALL_CLEAR in text) == clear
    assert ("Too few images to tell" in text) == (not clear)
    assert ("on too few images to tell" in text) == (not clear)
    assert ("no difference beyond chance" in text) == clear


def test_the_rule_is_written_where_something_is_compared(spots):
    (rule,) = [t for t in guide_parts([spots], {})[1].texts if t.startswith("too few images")]
    assert "fewer than 30 images" in rule
    assert "wider than 10\N{NO-BREAK SPACE}% of the scale" in rule
    alone = replace(spots, entries=spots.entries[:1])
    assert "too few images" not in " ".join(guide_parts([alone], {})[1].texts)


@pytest.mark.parametrize("units", [2, LEAST_UNITS - 1, LEAST_UNITS])
@pytest.mark.parametrize("sign", [-1, 1])
def test_gains_and_losses_over_few_images_are_called_uncertain(spots, units, sign):
    """Two images that both lose have an interval below 0, whatever the model does."""
    ends = sorted((sign * 0.1, sign * 0.3))
    moved = {"f1": Number(sign * 0.2, *ends)}
    runs = (replace(e, units=units, differences={} if e.baseline else moved) for e in spots.entries)
    text = " ".join(verdict(replace(spots, entries=tuple(runs))))
    assert ("lose" if sign < 0 else "gain") in text
    said = f"Gains and losses may be chance: intervals over {units} images are too narrow"
    assert (said in text) == (units < LEAST_UNITS)


def test_runs_whose_answers_nobody_reads_neither_gain_nor_lose():
    """Read as yes, they are better than a baseline that overlooks most objects."""
    section = pope(lambda run, number, item: "Hm." if run else "no" if number % 8 else item.label)
    assert section.verdict(section.compared[0]) == "better"
    text = " ".join(verdict(section))
    assert "is not judged, as too many of its answers are not read" in text
    assert "gains" not in text


def test_every_run_is_said_to_lose_only_if_all_were_read(spots):
    lost = {"f1": Number(-0.2, -0.3, -0.1)}
    every = [e if e.baseline else replace(e, differences=lost) for e in spots.entries]
    whole = replace(spots, entries=tuple(every))
    assert "Every run with fewer tokens loses." in verdict(whole)
    every[1] = replace(every[1], says={**every[1].says, "unparsed": every[1].answered})
    assert "Every run with fewer tokens loses." not in verdict(replace(whole, entries=tuple(every)))


def test_runs_without_an_interval_are_listed_as_such(spots):
    bare = replace(
        spots,
        entries=tuple(
            e if e.baseline else replace(e, differences={"f1": Number(-0.1)}) for e in spots.entries
        ),
    )
    text = " ".join(verdict(bare))
    assert "have too few images for an interval" in text
    assert ALL_CLEAR not in text


def test_parsers_that_read_the_same_answers_otherwise_are_said():
    """Made-up answers end with a full stop and a capital, which `strict` does not read."""
    section = sections_of(results_of(benchmark(images=40)))[0]
    (text,) = [words for words in cautions(section) if "Parsers disagree" in words]
    assert "by `official` and 0.000 by `strict`" in text


def test_how_many_units_were_drawn_is_read_from_the_file(spots):
    bench = benchmark(images=12)
    block = scored(bench, rows_of(bench, 0.1)).to_dict()["spots"]
    assert block["units"] == 12
    assert {entry.units for entry in spots.entries} == {40}
