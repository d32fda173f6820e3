"""The example images of the page, with a question each: bundled files, drawn for this project."""

from pathlib import Path

from lvlm_prune.assets import asset

EXAMPLES = (
    ("probe/images/scene_000001.jpg", "Is there a cat in the image?"),
    ("probe/images/scene_000012.jpg", "Is there an airplane in the image?"),
    ("probe/images/scene_000010.jpg", "How many dogs are in the image?"),
    ("probe/images/scene_000003.jpg", "What color is the umbrella?"),
    ("demo/mountains.jpg", "Is there a giraffe in the image?"),
    ("demo/mountains.jpg", "Describe this image."),
)


def examples() -> list[tuple[Path, str]]:
    """Paths and questions."""
    return [(asset(*name.split("/")), question) for name, question in EXAMPLES]
