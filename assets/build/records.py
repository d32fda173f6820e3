"""Benchmark records about the probe scenes, in the file formats of POPE and MME.

In: the frozen scenes. Out: plain records: POPE's three splits (3 yes + 3 no per image, the yes
questions shared), MME pairs (one yes, one no per image), open questions. MME pairs come from two
images that swap questions, so every question string is yes as often as no and a blind answerer is
right exactly half of the time. It knows nothing of files or models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from classes import CLASSES
from questions import (
    MOST,
    Question,
    color_text,
    count_text,
    counts,
    existence,
    halves,
    how_many,
    relation_text,
    relations,
    side_text,
    singles,
    what_color,
    where_is,
)
from scenes import Scene

MME_SUFFIX = " Please answer yes or no."


@dataclass(frozen=True)
class Fact:
    """Something true of a scene that another scene of the same `topic` contradicts.

    Attributes:
        topic: what the fact is about, e.g. a class.
        value: what is true of it.
        denied: values that are certainly false of the same topic.
        text: maps a value to a question.
    """

    topic: Hashable
    value: Any
    denied: frozenset[Any]
    text: Callable[[Any], str]


def pope_negatives(scenes: list[Scene], rng: np.random.Generator) -> dict[str, list[list[int]]]:
    """Three absent classes per scene and split.

    Random: any. Popular: the most frequent classes of the probe. Adversarial: for each class
    asked about with yes, the class that most often appears beside it.
    """
    present = [sorted(counts(scene)) for scene in scenes]
    often = Counter(label for row in present for label in row)
    beside = Counter((a, b) for row in present for a in row for b in row if a != b)
    out: dict[str, list[list[int]]] = {"random": [], "popular": [], "adversarial": []}
    for row in present:
        absent = [i for i in range(len(CLASSES)) if i not in row]
        out["random"].append(rng.permutation(absent)[:3].tolist())
        out["popular"].append(sorted(absent, key=lambda i: -often[i])[:3])
        near: list[int] = []
        for label in row[:3]:
            left = [i for i in absent if i not in near]
            near.append(max(left, key=lambda i: (beside[label, i], -i)))
        out["adversarial"].append(near)
    return out


def pope_records(scenes: list[Scene], names: list[str], seed: int) -> dict[str, list[dict]]:
    """POPE records of the three splits, alternating yes and no."""
    rng = np.random.default_rng(seed)
    asked = [rng.permutation(sorted(counts(s)))[:3].tolist() for s in scenes]
    out: dict[str, list[dict]] = {}
    for split, negatives in pope_negatives(scenes, rng).items():
        rows: list[dict] = []
        for name, yes, no in zip(names, asked, negatives, strict=True):
            for label, truth in zip((*yes, *no), (True,) * 3 + (False,) * 3, strict=True):
                question = existence(label, truth)
                rows.append({"image": name, "text": question.text, "label": question.answer})
            rows[-6:] = [rows[-6:][i] for i in (0, 3, 1, 4, 2, 5)]
        out[split] = [{"question_id": i + 1, **row} for i, row in enumerate(rows)]
    return out


def facts(kind: str, scene: Scene) -> Iterable[Fact]:
    """All facts of one kind (existence, color, count, position, relation) about a scene."""
    many = counts(scene)
    if kind == "existence":
        absent = frozenset(range(len(CLASSES))) - set(many)
        for label in many:
            yield Fact("image", label, absent, lambda v: existence(v, True).text)
    elif kind == "count":
        for label, n in many.items():
            if n <= MOST:
                denied = frozenset(range(1, MOST + 1)) - {n}
                yield Fact(label, n, denied, lambda v, c=label: count_text(c, v))
    elif kind == "color":
        for label in many:
            tints = {o.color for o in scene.objects if o.label == label and o.color is not None}
            for tint in tints:
                denied = frozenset(range(6)) - tints
                yield Fact(label, tint, denied, lambda v, c=label: color_text(c, v))
    elif kind == "position":
        opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
        for one in singles(scene):
            for side in (s for s in halves(one) if s):
                denied = frozenset({opposite[side]})
                yield Fact((one.label, side in ("left", "right")), side, denied,
                           lambda v, c=one.label: side_text(c, v))  # fmt: skip


def mme_pairs(
    kind: str, scenes: list[Scene], rng: np.random.Generator
) -> list[tuple[int, str, str]]:
    """Matches scenes two by two so that each confirms what the other denies.

    Args:
        kind: existence, color, count or position.
        scenes: the probe.
        rng: order in which matches are tried.

    Returns:
        (scene index, yes question, no question), at most one per scene.
    """
    order = rng.permutation(len(scenes)).tolist()
    known = {i: list(facts(kind, scenes[i])) for i in order}
    out: dict[int, tuple[str, str]] = {}
    for position, i in enumerate(order):
        mine = [known[i][k] for k in rng.permutation(len(known[i]))]
        for j in order[position + 1 :] if i not in out else ():
            pair = next(
                ((a, b) for a in mine for b in known[j]
                 if a.topic == b.topic and a.value in b.denied and b.value in a.denied),
                None,
            ) if j not in out else None  # fmt: skip
            if pair:
                a, b = pair
                out[i] = (a.text(a.value), a.text(b.value))
                out[j] = (b.text(b.value), b.text(a.value))
                break
    return [(i, *out[i]) for i in sorted(out)]


def relation_pairs(scenes: list[Scene], rng: np.random.Generator) -> list[tuple[int, str, str]]:
    """One pair per scene with two single objects: a relation and its opposite."""
    out = []
    for i, scene in enumerate(scenes):
        alone = singles(scene)
        if len(alone) < 2:
            continue
        a, b = (alone[k] for k in rng.permutation(len(alone))[:2])
        found = relations(a, b)
        if found:
            true, false = found[rng.integers(len(found))]
            yes, no = (relation_text(a.label, b.label, r) for r in (true, false))
            out.append((i, yes, no))
    return out


def mme_lines(pairs: list[tuple[int, str, str]], names: list[str]) -> list[str]:
    """MME's tab-separated lines, yes first."""
    lines = []
    for i, yes, no in pairs:
        for text, answer in ((yes, "Yes"), (no, "No")):
            wording = text.replace("in the image?", "in this image?")
            lines.append(f"{names[i]}\t{wording}{MME_SUFFIX}\t{answer}")
    return lines


def open_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """At most one open question each about colour, number and place."""
    found = (make(scene, rng) for make in (what_color, how_many, where_is))
    return [question for question in found if question]
