"""A made-up yes/no benchmark, a caption benchmark, and answers of several runs from a seed."""

from pathlib import Path

import numpy as np

from lvlm_prune.eval.benchmark import Benchmark, Item, Scoring, Tally
from lvlm_prune.eval.row import Row

SPLITS = ("near", "far")
BENCH_LINES = 180  # yes/no lines of 30 images


def read(item, text, parser):
    """Yes or no, case counts for `strict` alone."""
    word = text.strip() if parser == "strict" else text.strip().lower().rstrip(".")
    return word if word in ("yes", "no") else "unparsed" if word else "empty"


def right(item, text, parser):
    return read(item, text, parser) == item.label


def tally(items, texts, parser):
    units = tuple(dict.fromkeys(item.image for item in items))
    splits = sorted({item.split for item in items})
    columns = tuple(f"{split}/{cell}" for split in splits for cell in ("tp", "fp", "fn", "n"))
    counts = np.zeros((len(units), len(columns)), np.int64)
    for item, text in zip(items, texts, strict=True):
        if text is None:
            continue
        said, row = read(item, text, parser), units.index(item.image)
        cell = {("yes", "yes"): "tp", ("no", "yes"): "fp", ("yes", "no"): "fn"}
        for name in (cell.get((item.label, said)), "n"):
            if name:
                counts[row, columns.index(f"{item.split}/{name}")] += 1
    return Tally(columns, units, counts)


def metrics(columns, counts, parser, nothing=0.0):
    place = {name: i for i, name in enumerate(columns)}
    splits = list(dict.fromkeys(name.split("/")[0] for name in columns))
    found = {}
    for split in splits:
        tp, fp, fn, n = (counts[..., place[f"{split}/{c}"]] for c in ("tp", "fp", "fn", "n"))
        whole = 2 * tp + fp + fn
        found[f"{split}/f1"] = np.where(whole > 0, 2 * tp / np.maximum(whole, 1), nothing)
        found[f"{split}/n"] = np.asarray(n, np.float64)
    found["f1"] = np.mean([found[f"{split}/f1"] for split in splits], axis=0)
    found["n"] = np.sum([found[f"{split}/n"] for split in splits], axis=0)
    return found


def layout(numbers):
    return {"F1": numbers["f1"], "splits": {s: numbers[f"{s}/f1"] for s in SPLITS}}


YES_NO = Scoring("spots", ("official", "strict"), "f1", read, right, tally, metrics, layout)


def words(items, texts, parser):
    units = tuple(item.image for item in items)
    rows = [(len(t.split()), t.split().count("ghost"), 1, "ghost" in t, "cat" in t) for t in texts]
    columns = ("words", "ghosts", "captions", "haunted", "found")
    return Tally(columns, units, np.asarray(rows, np.int64).reshape(-1, 5))


def ghost_rate(columns, counts, parser, nothing=0.0):
    words, ghosts, captions, haunted, found = (counts[..., i] for i in range(5))
    return {
        "ghosts_i": ghosts / np.maximum(words, 1),
        "ghosts_s": haunted / np.maximum(captions, 1),
        "recall": found / np.maximum(captions, 1),
        "words": np.asarray(words, np.float64),
    }


CAPTIONS = Scoring(
    "ghosts", ("official",), "ghosts_i", lambda item, text, parser: "caption", None, words,
    ghost_rate, lambda numbers: {"Ghosts": 100 * numbers["ghosts_i"]}, lower_is_better=True,
)  # fmt: skip


def benchmark(images=30, version="0011223344556677"):
    """Six questions an image in two splits, which share their yes question; one caption each."""
    items = []
    for number in range(images):
        image = f"{number:03}.png"
        for split in SPLITS:
            asked = [("a dog", "yes"), (f"a {split} cat", "no"), (f"a {split} hen", "no")]
            for question, label in asked:
                name = f"spots/{split}/{len(items)}"
                text = f"Is there {question}?"
                items.append(Item(name, image, text, label, "spots", split))
        items.append(Item(f"ghosts/{image}", image, "Describe it.", "", "ghosts", "captions"))
    return Benchmark(
        name="haunted",
        items=tuple(items),
        files={item.image: Path(item.image) for item in items},
        scorings={"spots": YES_NO, "ghosts": CAPTIONS},
        longest={"spots": 8, "ghosts": 32},
        version={"questions.json": version},
        source="made up",
    )


def rows_of(bench, wrong, seed=0, odd=(), failed=()):
    """Answers of which a share is wrong; lines with the same prompt are one row."""
    rng = np.random.default_rng(seed)
    prompts = {}
    for item in bench.items:
        prompts.setdefault((item.image, item.question), []).append(item)
    rows = []
    for number, ((image, question), items) in enumerate(prompts.items()):
        good = rng.random() >= wrong
        text = "a cat and a dog" if good else "a ghost and a ghost"
        if items[0].label:
            text = items[0].label if good else {"yes": "no", "no": "yes"}[items[0].label]
            text = f"{text.capitalize()}."
        text = dict.fromkeys(odd, "Who knows").get(number, text)
        names = tuple(item.id for item in items)
        fault = "OutOfMemoryError: too large" if number in failed else None
        said = None if fault else text
        rows.append(Row(names[0], names, image, question, question, said, {}, fault))
    return rows
