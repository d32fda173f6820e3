"""Makes questions with exact answers about a drawn scene, balanced per question string.

In: a `Scene` and a random generator. Out: `Question` (kind, text, answer). Yes/no questions are
yes half of the time whatever their string, so that a blind guesser gains nothing; wordings are
POPE's and MME's. It knows nothing of tokens or models.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from classes import CLASSES, COLOR_NAMES, NUMBER_WORDS, THEMES, article, plural
from scenes import SIZE, Scene, SceneObject
from words import SUFFIXES

# Distance in pixels between two centres below which left/right or above/below is not asked.
MARGIN = 9
MOST = 4


@dataclass(frozen=True)
class Question:
    """A question, its answer in lower case, and its kind (the name metrics are reported by)."""

    kind: str
    text: str
    answer: str


def existence(label: int, present: bool) -> Question:
    """POPE's question about one class."""
    noun = CLASSES[label]
    text = f"Is there {article(noun)} {noun} in the image?"
    return Question("existence", text, "yes" if present else "no")


def counts(scene: Scene) -> Counter[int]:
    """Number of objects per class index."""
    return Counter(o.label for o in scene.objects)


def singles(scene: Scene) -> list[SceneObject]:
    """Objects that are the only one of their class."""
    many = counts(scene)
    return [o for o in scene.objects if many[o.label] == 1]


def neighbours(present: list[int]) -> list[int]:
    """Absent classes that share a theme with a present one."""
    names = {CLASSES[label] for label in present}
    near = {name for theme in THEMES.values() if names & set(theme) for name in theme}
    return [i for i, name in enumerate(CLASSES) if name in near and i not in present]


def existence_pairs(scene: Scene, pairs: int, rng: np.random.Generator) -> list[Question]:
    """As many yes as no questions, half of the absent classes from the scene's theme."""
    present = sorted(counts(scene))
    chosen = rng.permutation(present)[:pairs].tolist()
    absent = [i for i in range(len(CLASSES)) if i not in present]
    near = neighbours(present) or absent
    out = [existence(label, True) for label in chosen]
    for _ in range(max(len(chosen), 1)):
        pool = near if rng.random() < 0.5 else absent
        out.append(existence(pool[rng.integers(len(pool))], False))
    return out


def count_text(label: int, number: int, where: str = "the image") -> str:
    """MME's wording of a counting question."""
    if number == 1:
        return f"Is there only one {CLASSES[label]} in {where}?"
    return f"Are there {NUMBER_WORDS[number]} {plural(CLASSES[label])} in {where}?"


def count_yes_no(scene: Scene, rng: np.random.Generator) -> Question | None:
    """A count to confirm; single objects are thinned out so that each number is asked equally."""
    many = [(label, n) for label, n in counts(scene).items() if n <= MOST]
    if not many:
        return None
    label, number = many[rng.integers(len(many))]
    if number == 1 and rng.random() > 0.25:
        return None
    if rng.random() < 0.5:
        return Question("count", count_text(label, number), "yes")
    others = [n for n in range(1, MOST + 1) if n != number]
    return Question("count", count_text(label, others[rng.integers(len(others))]), "no")


def how_many(scene: Scene, rng: np.random.Generator) -> Question | None:
    """An open counting question; one in ten asks about an absent class."""
    many = counts(scene)
    label = int(rng.integers(len(CLASSES)))
    if many and rng.random() < 0.9:
        label = list(many)[rng.integers(len(many))]
        if many[label] == 1 and rng.random() > 0.4:
            return None
    text = f"How many {plural(CLASSES[label])} are in the image?"
    return Question("how many", text, NUMBER_WORDS[min(many[label], 5)])


def color_text(label: int, color: int, where: str = "the image") -> str:
    """MME's wording of a colour question."""
    name = COLOR_NAMES[color]
    return f"Is there {article(name)} {name} {CLASSES[label]} in {where}?"


def color_yes_no(scene: Scene, rng: np.random.Generator) -> Question | None:
    """A colour to confirm for a class that is present in some colour."""
    tinted = [o for o in scene.objects if o.color is not None]
    if not tinted:
        return None
    one = tinted[rng.integers(len(tinted))]
    used = {o.color for o in tinted if o.label == one.label}
    yes = rng.random() < 0.5
    others = [c for c in range(len(COLOR_NAMES)) if c not in used]
    color = int(one.color or 0) if yes else others[rng.integers(len(others))]
    text = color_text(one.label, color)
    if counts(scene)[one.label] == 1 and rng.random() < 0.3:
        text = f"Is the {CLASSES[one.label]} {COLOR_NAMES[color]}?"
    return Question("color", text, "yes" if yes else "no")


def what_color(scene: Scene, rng: np.random.Generator) -> Question | None:
    """An open colour question about the only object of its class."""
    tinted = [o for o in singles(scene) if o.color is not None]
    if not tinted:
        return None
    one = tinted[rng.integers(len(tinted))]
    text = f"What color is the {CLASSES[one.label]}?"
    return Question("what color", text, COLOR_NAMES[int(one.color or 0)])


def halves(one: SceneObject) -> tuple[str | None, str | None]:
    """(top or bottom, left or right) of an object, None where it is near the middle."""
    x, y = one.center
    column = None if abs(x - SIZE / 2) < MARGIN else ("left" if x < SIZE / 2 else "right")
    row = None if abs(y - SIZE / 2) < MARGIN else ("top" if y < SIZE / 2 else "bottom")
    return row, column


def side_text(label: int, side: str) -> str:
    """Wording of a question about the half of the image an object is in."""
    return f"Is the {CLASSES[label]} on the {side} side of the image?"


def side_yes_no(scene: Scene, rng: np.random.Generator) -> Question | None:
    """A half of the image to confirm."""
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    known = [(o.label, side) for o in singles(scene) for side in halves(o) if side]
    if not known:
        return None
    label, side = known[rng.integers(len(known))]
    if rng.random() < 0.5:
        return Question("side", side_text(label, side), "yes")
    return Question("side", side_text(label, opposite[side]), "no")


def where_is(scene: Scene, rng: np.random.Generator) -> Question | None:
    """An open position question, answered like "top left"."""
    known = [(o.label, halves(o)) for o in singles(scene)]
    clear = [(label, f"{row} {column}") for label, (row, column) in known if row and column]
    if not clear:
        return None
    label, answer = clear[rng.integers(len(clear))]
    return Question("where", f"Where is the {CLASSES[label]}?", answer)


def relation_text(first: int, second: int, relation: str) -> str:
    """MME's wording of a question about two objects."""
    place = {"left": "on the left side of", "right": "on the right side of"}
    a, b = CLASSES[first], CLASSES[second]
    return f"Is the {a} {place.get(relation, relation)} the {b} in the image?"


def relations(a: SceneObject, b: SceneObject) -> list[tuple[str, str]]:
    """True relations of a to b, each with its opposite."""
    (ax, ay), (bx, by) = a.center, b.center
    out = []
    if abs(ax - bx) >= 2 * MARGIN:
        out.append(("left", "right") if ax < bx else ("right", "left"))
    if abs(ay - by) >= 2 * MARGIN:
        out.append(("above", "below") if ay < by else ("below", "above"))
    return out


def relation_yes_no(scene: Scene, rng: np.random.Generator) -> Question | None:
    """A relation of two single objects to confirm."""
    alone = singles(scene)
    if len(alone) < 2:
        return None
    i, j = rng.permutation(len(alone))[:2]
    found = relations(alone[i], alone[j])
    if not found:
        return None
    true, false = found[rng.integers(len(found))]
    yes = rng.random() < 0.5
    text = relation_text(alone[i].label, alone[j].label, true if yes else false)
    return Question("relation", text, "yes" if yes else "no")


def description(scene: Scene) -> str:
    """All classes with their numbers in the order of the class list."""
    parts = [
        f"{article(CLASSES[i])} {CLASSES[i]}"
        if n == 1
        else f"{NUMBER_WORDS[min(n, 5)]} {plural(CLASSES[i])}"
        for i, n in sorted(counts(scene).items())
    ]
    if not parts:
        return "nothing."
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1] + "."


def caption(scene: Scene, rng: np.random.Generator) -> Question:
    """A request to describe the scene."""
    requests = ("Describe this image.", "Please describe this image in detail.")
    return Question("caption", requests[rng.integers(2)], description(scene))


def reworded(question: Question, rng: np.random.Generator) -> Question:
    """Says "this image" one time in five and appends a benchmark suffix two times in five."""
    text = question.text
    if rng.random() < 0.2:
        text = text.replace("in the image?", "in this image?")
    draw = rng.random()
    if question.answer in ("yes", "no") and draw < 0.2:
        text += SUFFIXES[1]
    elif draw > 0.8 and question.kind != "caption":
        text += SUFFIXES[2]
    return Question(question.kind, text, question.answer)


def training_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """About twelve questions of all kinds about one scene."""
    makers = [color_yes_no, what_color, how_many, count_yes_no, side_yes_no, where_is]
    makers += [relation_yes_no, side_yes_no if rng.random() < 0.6 else count_yes_no]
    found = existence_pairs(scene, 2, rng)
    found += [q for q in (make(scene, rng) for make in makers) if q]
    if rng.random() < 0.3:
        found.append(caption(scene, rng))
    return [reworded(q, rng) for q in found]
