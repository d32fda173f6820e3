"""Captions of a file, joined to the lines of a benchmark by the image that each names.

In: requests for a caption, one an image, and answers. Out: the line of each answer. A name that is
exactly in the labels is that image; any other is the one image whose COCO number it has, as `42`,
`000000000042.jpg` and `COCO_val2014_000000000042.jpg` are the same; and where several have it
(`1.jpg` and `001.jpg`), it is none of them. Running numbers beside the images do not count.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from lvlm_prune.eval.answer_files_contract import Answer, image_number
from lvlm_prune.eval.benchmark import Item


def by_image(
    items: Sequence[Item], answers: Sequence[Answer]
) -> tuple[dict[object, list[Item]], list[object]] | None:
    """Captions by their image.

    Args:
        items: lines of a benchmark.
        answers: of a file; one without an image may have its name as the id.

    Returns:
        The lines by name, and the name of each answer, which is that of no line if no image or
        several may be meant; None if there are other lines than captions, or no answer names one.
    """
    if any(item.label or item.image is None for item in items):
        return None
    line_of = _line_names(items)
    lines: dict[object, list[Item]] = {item.id: [item] for item in items}
    names: list[object] = [line_of(answer.image or answer.id or "") for answer in answers]
    return (lines, names) if any(name in lines for name in names) else None


def _line_names(items: Sequence[Item]) -> Callable[[str], str]:
    """From the name of an image to the name of its line, or to itself if there is not one line.

    An image may be called as the labels call it, which is what an id ends in, or as its file is.
    """
    files = {item.image or "": item.id for item in items}
    lines = {**files, **{item.id.split("/", 1)[-1]: item.id for item in items}}
    numbers: dict[str, set[str]] = defaultdict(set)
    for name, line in lines.items():
        numbers[image_number(name)].add(line)

    def line_of(name: str) -> str:
        alike = numbers.get(image_number(name), set())
        return lines.get(name) or (next(iter(alike)) if len(alike) == 1 else name)

    return line_of
