"""The fixed vocabulary of the drawn scenes: classes, colours, themes and renderings.

In: nothing. Out: plain constants and two small functions on them. The class names are the COCO
names, so that POPE's question wording applies unchanged. A rendering is one picture of a class:
a vendor plus an emoji codepoint. It knows nothing of images, models or questions.
"""

from __future__ import annotations

# Per class: (codepoint, CLDR slug) of its emoji; the first one is the class's main picture.
CODEPOINTS: dict[str, tuple[tuple[str, str], ...]] = {
    "airplane": (("2708", "airplane"), ("1f6e9", "small-airplane")),
    "apple": (("1f34e", "red-apple"), ("1f34f", "green-apple")),
    "banana": (("1f34c", "banana"),),
    "bicycle": (("1f6b2", "bicycle"),),
    "book": (("1f4d5", "closed-book"), ("1f4d6", "open-book")),
    "broccoli": (("1f966", "broccoli"),),
    "bus": (("1f68c", "bus"), ("1f68d", "oncoming-bus")),
    "car": (("1f697", "automobile"), ("1f699", "sport-utility-vehicle")),
    "cat": (("1f408", "cat"), ("1f431", "cat-face")),
    "chair": (("1fa91", "chair"),),
    "clock": (("1f552", "three-oclock"), ("23f0", "alarm-clock")),
    "cup": (("2615", "hot-beverage"),),
    "dog": (("1f415", "dog"), ("1f436", "dog-face")),
    "donut": (("1f369", "doughnut"),),
    "elephant": (("1f418", "elephant"),),
    "giraffe": (("1f992", "giraffe"),),
    "horse": (("1f40e", "horse"), ("1f434", "horse-face")),
    "laptop": (("1f4bb", "laptop"),),
    "orange": (("1f34a", "tangerine"),),
    "person": (("1f9cd", "person-standing"), ("1f6b6", "person-walking")),
    "pizza": (("1f355", "pizza"),),
    "tv": (("1f4fa", "television"),),
    "umbrella": (("2602", "umbrella"), ("2614", "umbrella-with-rain-drops")),
    "zebra": (("1f993", "zebra"),),
}
CLASSES: tuple[str, ...] = tuple(CODEPOINTS)
VENDORS: tuple[str, ...] = ("noto", "fluent3d", "twemoji", "fluentflat", "notov1")
# One rule for all classes, fixed before training: the Twemoji drawing of the main codepoint is
# never seen in training.
HELD_OUT_VENDOR = "twemoji"

COLORABLE: tuple[str, ...] = (
    "airplane", "bicycle", "book", "bus", "car", "chair", "clock", "cup", "laptop", "umbrella",
)  # fmt: skip
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.12),
    "yellow": (0.98, 0.85, 0.10),
    "green": (0.12, 0.62, 0.20),
    "blue": (0.12, 0.32, 0.88),
    "purple": (0.58, 0.16, 0.70),
    "white": (0.97, 0.97, 0.97),
}
COLOR_NAMES: tuple[str, ...] = tuple(COLORS)

# Classes of one theme co-occur, which is what makes adversarial negatives adversarial.
THEMES: dict[str, tuple[str, ...]] = {
    "street": ("car", "bus", "bicycle", "person", "dog", "umbrella"),
    "animals": ("elephant", "giraffe", "zebra", "horse", "dog", "cat"),
    "kitchen": ("apple", "banana", "orange", "broccoli", "pizza", "donut", "cup"),
    "living": ("chair", "tv", "laptop", "book", "clock", "cat", "cup"),
    "travel": ("airplane", "bus", "person", "umbrella", "laptop", "book"),
}
NUMBER_WORDS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five")
IRREGULAR_PLURALS: dict[str, str] = {"bus": "buses", "person": "people", "broccoli": "broccolis"}


def article(noun: str) -> str:
    """Returns "a" or "an" by POPE's rule (first letter in aeiou)."""
    return "an" if noun[0] in "aeiou" else "a"


def plural(noun: str) -> str:
    """Returns the plural of a class name."""
    return IRREGULAR_PLURALS.get(noun, noun + "s")
