"""CHAIR on drawn scenes: which objects does a caption name that are not there?

In: captions and the objects of each scene (`scenes.json`). Out: CHAIR_s, the share of captions with
a made-up object, and CHAIR_i, the share of mentions that are made up (Rohrbach et al., arXiv
1809.02156), with the share of the scene's classes that are named and the mentions of a caption. As
in the official code every mention counts, also a repeated one. Its list of synonyms has no use
here: the bundled models know one word for a class, and its plural. Numbers are not judged. The
counting is that of `chair_scoring`, with a vocabulary of its own.

The same captions scored against the next scene say what naming things blindly would give.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lvlm_prune.eval.benchmark import Scoring
from lvlm_prune.eval.chair_scoring import chair_scoring, count
from lvlm_prune.eval.probe import Item

REQUEST = "Describe this image."
LONGEST = 48  # new tokens; a scene of seven classes takes about 25
PLURALS = {"people": "person", "persons": "person", "buses": "bus"}


@dataclass(frozen=True)
class Scenes:
    """What is in the images.

    Args:
        classes: all class names.
        present: for each image, the classes that are there.
    """

    classes: tuple[str, ...]
    present: dict[str, frozenset[str]]

    def mentions(self, caption: str) -> list[str]:
        """The classes that a caption names, in order, each as often as it is named."""
        return [name for word in _words(caption) if (name := self._class(word)) is not None]

    def length(self, caption: str) -> int:
        """Words of a caption."""
        return len(_words(caption))

    def _class(self, word: str) -> str | None:
        """The class of a word in singular or plural."""
        for name in (word, PLURALS.get(word), word.removesuffix("s")):
            if name in self.classes:
                return name
        return None


@dataclass(frozen=True)
class CaptionScore:
    """Counts for each image, `[images]` int64 each.

    Args:
        mentions: classes that were named, with repetitions.
        made_up: of those, how many are not there.
        present: classes that are there.
        found: of those, how many were named.
    """

    mentions: NDArray[np.int64]
    made_up: NDArray[np.int64]
    present: NDArray[np.int64]
    found: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Captions."""
        return len(self.mentions)

    @property
    def chair_s(self) -> float:
        """Share of captions with a made-up object."""
        return float((self.made_up > 0).mean())

    @property
    def chair_i(self) -> float:
        """Share of mentions that are made up."""
        return float(self.made_up.sum() / max(self.mentions.sum(), 1))

    @property
    def recall(self) -> float:
        """Share of the classes that are there which were named."""
        return float(self.found.sum() / self.present.sum())

    @property
    def mean_mentions(self) -> float:
        """Mentions of a caption."""
        return float(self.mentions.mean())

    def to_dict(self) -> dict[str, int | float]:
        """Numbers for a result file."""
        names = ("chair_s", "chair_i", "recall", "mean_mentions")
        return {"captions": self.count, **{name: getattr(self, name) for name in names}}


def load_scenes(folder: Path) -> Scenes:
    """Read `scenes.json` of the probe folder.

    Raises:
        FileNotFoundError: it is missing.
    """
    saved = json.loads((folder / "scenes.json").read_text(encoding="utf-8-sig"))
    present = {
        scene["image"]: frozenset(one["class"] for one in scene["objects"])
        for scene in saved["scenes"]
    }
    return Scenes(tuple(saved["classes"]), present)


def caption_items(images: Sequence[str]) -> list[Item]:
    """A request for a caption of each image."""
    return [Item(f"caption/{image}", image, REQUEST, "", "caption", "caption") for image in images]


def caption_scoring(scenes: Scenes) -> Scoring:
    """CHAIR's scoring rule with the words and the objects of the scenes.

    Raises:
        KeyError: in its tally, for an image that is no scene.
    """
    return chair_scoring("caption", scenes, lambda item: scenes.present[str(item.image)])


def score_captions(captions: Sequence[str], images: Sequence[str], scenes: Scenes) -> CaptionScore:
    """Score one caption of each image.

    Args:
        captions: raw answers.
        images: their image files.
        scenes: what is there.

    Raises:
        ValueError: different numbers of captions and images.
    """
    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions but {len(images)} images")
    rows = []
    for caption, image in zip(captions, images, strict=True):
        mentions, made_up, _, there, found = count(scenes.mentions(caption), scenes.present[image])
        rows.append((mentions, made_up, there, found))
    columns = np.asarray(rows, dtype=np.int64).reshape(-1, 4).T
    return CaptionScore(*columns)


def score_next(captions: Sequence[str], images: Sequence[str], scenes: Scenes) -> CaptionScore:
    """Score each caption against the next image, which it has nothing to do with."""
    return score_captions(captions, [*images[1:], *images[:1]], scenes)


def caption_lines(
    captions: Sequence[str], images: Sequence[str], scenes: Scenes
) -> list[Mapping[str, Any]]:
    """One row for each caption, for a result file."""
    rows: list[Mapping[str, Any]] = []
    for caption, image in zip(captions, images, strict=True):
        named, there = scenes.mentions(caption), scenes.present[image]
        rows.append(
            {
                "image": image,
                "question": REQUEST,
                "answer": caption,
                "mentions": named,
                "made_up": [name for name in named if name not in there],
                "missed": sorted(there.difference(named)),
            }
        )
    return rows


@dataclass(frozen=True)
class Captioned:
    """The captions of a run.

    Args:
        texts: raw answers, one for each image.
        images: image files.
        scenes: what is there.
    """

    texts: list[str]
    images: list[str]
    scenes: Scenes

    @property
    def score(self) -> CaptionScore:
        """Against the scenes."""
        return score_captions(self.texts, self.images, self.scenes)

    @property
    def blind(self) -> CaptionScore:
        """Against the next scene each."""
        return score_next(self.texts, self.images, self.scenes)

    def lines(self) -> list[Mapping[str, Any]]:
        """One row for each caption."""
        return caption_lines(self.texts, self.images, self.scenes)

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a result file."""
        return {**self.score.to_dict(), "against_next_image": self.blind.to_dict()}


def _words(caption: str) -> list[str]:
    """Runs of letters, in lower case."""
    return re.findall(r"[a-z]+", caption.lower())
