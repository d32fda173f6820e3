"""POPE questions about one's own images (Li et al., EMNLP 2023, arXiv 2305.10355, section 5.1).

In: which objects are in which image. Out: the three splits as records of POPE's files, yes and no
in turn. The objects asked for with yes are drawn from the image's own and are the same in all
splits. Each is followed by an object that is not there: drawn from all objects (random), the most
frequent one (popular), or the one that most often stands in an image with the object before it
(adversarial; where none is left that ever did, drawn like random). No object is asked for twice
about an image. Frequencies count images, over the images that are used.

Unlike the official builder, which draws without a seed and breaks ties by file order, draws depend
on the seed and the image's name alone and ties go by the alphabet: neither the order of the images
nor that of their objects matters. Whether annotations are complete is not known here; an object
that is there but not annotated becomes a wrong no.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPLITS = ("random", "popular", "adversarial")
VOWELS = frozenset("aeiou")


@dataclass(frozen=True)
class Objects:
    """How often objects stand in images.

    Args:
        names: all objects, by the alphabet.
        images: number of images with an object.
        together: number of images with one object and another.
    """

    names: tuple[str, ...]
    images: Mapping[str, int]
    together: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, scenes: Iterable[Collection[str]]) -> "Objects":
        """Count the objects of some images."""
        images: Counter[str] = Counter()
        together: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for scene in map(set, scenes):
            images.update(scene)
            for name in scene:
                together[name].update(scene - {name})
        return cls(tuple(sorted(images)), images, together)


def build(
    scenes: Mapping[str, Collection[str]],
    seed: int = 0,
    per_image: int = 6,
    min_objects: int = 3,
    sample: int | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Make the questions of the three splits.

    Args:
        scenes: the objects of each image, by its file name.
        seed: of all draws.
        per_image: questions about an image, half of them yes.
        min_objects: images with fewer objects are left out.
        sample: draw this many of the images that are left; None takes all.

    Returns:
        For each split, records with `question_id`, `image`, `text` and `label`, by image name.

    Raises:
        ValueError: an odd number of questions, an image with too few objects or with too few left
            that it does not have, or fewer images than asked for.
    """
    if per_image < 2 or per_image % 2:
        raise ValueError(f"questions about an image must be an even number, got {per_image}")
    images = sorted(image for image, there in scenes.items() if len(set(there)) >= min_objects)
    if not images or (sample is not None and not 1 <= sample <= len(images)):
        raise ValueError(
            f"{len(images)} of {len(scenes)} images have {min_objects} objects or more; "
            f"{'at least one' if sample is None else sample} needed"
        )
    if sample is not None:
        images = sorted(random.Random(f"{seed}").sample(images, sample))
    counts = Objects.of(scenes[image] for image in images)
    asked = {
        image: _positives(image, sorted(set(scenes[image])), per_image // 2, seed)
        for image in images
    }
    return {split: list(_records(split, asked, scenes, counts, seed)) for split in SPLITS}


def negatives(
    split: str, positives: Sequence[str], there: Collection[str], counts: Objects, draw: str
) -> list[str]:
    """One object that is not there for each that is.

    Args:
        split: `random`, `popular` or `adversarial`.
        positives: objects that are asked for with yes, in order.
        there: all objects of the image.
        counts: frequencies over all images.
        draw: seed of the draws.

    Raises:
        ValueError: too few objects that are not there.
    """
    rng = random.Random(draw)
    left = [name for name in counts.names if name not in there]
    if len(left) < len(positives):
        raise ValueError(f"{len(left)} known objects are not in it, {len(positives)} needed")
    found: list[str] = []
    for positive in positives:
        beside = counts.together.get(positive, {})
        scores = {"popular": counts.images, "adversarial": beside}.get(split, {})
        best = max((scores.get(name, 0) for name in left), default=0)
        first = (name for name in left if scores.get(name, 0) == best)
        name = next(first) if best else rng.choice(left)
        left.remove(name)
        found.append(name)
    return found


def question(name: str) -> str:
    """POPE's question, with `an` before a vowel letter."""
    return f"Is there {'an' if name[0].lower() in VOWELS else 'a'} {name} in the image?"


def _positives(image: str, there: Sequence[str], count: int, seed: int) -> list[str]:
    """Objects of an image to ask for."""
    if len(there) < count:
        raise ValueError(
            f"image {image} has {len(there)} objects, {count} needed; ask fewer questions about "
            f"an image or leave out images with fewer than {count} objects"
        )
    return random.Random(f"{seed}/{image}").sample(there, count)


def _records(
    split: str,
    asked: Mapping[str, Sequence[str]],
    scenes: Mapping[str, Collection[str]],
    counts: Objects,
    seed: int,
) -> Iterable[dict[str, Any]]:
    """The records of one split, yes and no in turn."""
    number = 0
    for image, positives in asked.items():
        try:
            absent = negatives(split, positives, scenes[image], counts, f"{seed}/{split}/{image}")
        except ValueError as error:
            raise ValueError(f"image {image} has too many objects: {error}") from error
        for pair in zip(positives, absent, strict=True):
            for name, label in zip(pair, ("yes", "no"), strict=True):
                number += 1
                yield {
                    "question_id": number,
                    "image": image,
                    "text": question(name),
                    "label": label,
                }
