"""What `--prompt` may hold: one `{question}`, no other name in braces, and no image of its own.

In: a template, and a model with its processor. Out: nothing, or a ValueError. The chat template
places the image, so another placeholder in the text would stand for an image that is not there.
Braces around anything but a name, such as those of JSON, are text.
"""

import re

from lvlm_prune.eval.questions import PLAIN
from lvlm_prune.loading import Loaded

NAME = re.compile(r"\{[A-Za-z_]\w*\}")
PLACED = ("image", "video", "vision")  # what the names of placeholders begin with in a config


def check_template(template: str) -> None:
    """Refuse a template without a place for the question, or with a name that nothing fills.

    Raises:
        ValueError: naming what is missing or unknown.
    """
    advice = f"such as '{PLAIN} Please answer yes or no.'"
    if PLAIN not in template:
        raise ValueError(
            f"the prompt {template!r} lacks {PLAIN}; write where the question goes, {advice}"
        )
    unknown = [name for name in NAME.findall(template) if name != PLAIN]
    if unknown:
        raise ValueError(
            f"the prompt {template!r} has {unknown[0]}, which nothing fills; {PLAIN} is the only "
            f"name that it may have, {advice}"
        )


def check_placeholders(template: str, loaded: Loaded) -> None:
    """Refuse a template with text that the model's processor takes for an image or a video.

    Raises:
        ValueError: naming the text.
    """
    found = [text for text in placeholders(loaded) if text in template]
    if found:
        raise ValueError(
            f"the prompt {template!r} has {found[0]}, which {loaded.name} reads as an image or a "
            "video; leave it out: the model's chat template places the image before the question"
        )


def placeholders(loaded: Loaded) -> list[str]:
    """The texts that stand for images and videos, or mark where they begin and end."""
    config = loaded.model.config.to_dict()
    ids = [
        value
        for name, value in config.items()
        if name.startswith(PLACED) and name.endswith(("_token_id", "_token_index"))
    ]
    tokens = loaded.processor.tokenizer.convert_ids_to_tokens([n for n in ids if n is not None])
    # The processor may fill in another text than the token that the model reads.
    named = [
        value
        for name, value in vars(loaded.processor).items()
        if name.endswith(("image_token", "video_token")) and isinstance(value, str)
    ]
    return sorted({*tokens, *named} - {"", None}, key=len, reverse=True)
