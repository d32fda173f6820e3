"""Which image of the labels does an answer name?

In: the images of a benchmark's captions. Out: a function from a name in an answer file to the name
in the labels. A name that is exactly in the labels is that image; any other is the one image whose
COCO number it has, as `42`, `000000000042.jpg` and `COCO_val2014_000000000042.jpg` are the same;
and where several have it (`1.jpg` and `001.jpg`), it is none of them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

from lvlm_prune.eval.answer_files_contract import image_number


def image_names(images: Iterable[str]) -> Callable[[str], str]:
    """From the name of an image in an answer to the name in the labels.

    Args:
        images: file names in the labels.

    Returns:
        A function that gives names which belong to no image, or to several, back as they are.
    """
    exact = set(images)
    numbers: dict[str, list[str]] = defaultdict(list)
    for name in exact:
        numbers[image_number(name)].append(name)

    def named(name: str) -> str:
        alike = numbers.get(image_number(name), [])
        return alike[0] if name not in exact and len(alike) == 1 else name

    return named
