"""Short texts to calibrate on, or token ids where there is no tokenizer.

Position 0 is a sink for nearly every first token, and full stops and line breaks often are, so that
a few lines of ordinary prose show an LLM's sinks; no image is needed, since sink dimensions belong
to the LLM that a vision-language model was built on.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

TEXTS = (
    "The committee met on Tuesday to discuss the budget. Nobody agreed with the chairman, and the "
    "vote was postponed until the end of the month.",
    "To bake bread you need flour, water, salt and yeast.\nMix them, wait an hour, and put the "
    "dough into a hot oven.",
    "Question: Which planets have rings? Answer: Saturn, Jupiter, Uranus and Neptune; those of "
    "Saturn are easy to see.",
    "In 1987 the museum bought three paintings (one of them a copy) for $2,400, and sold two of "
    "them a year later.",
)
LONGEST = 128  # tokens of a prompt
COUNT, LENGTH = 4, 32  # prompts of token ids
STEP = 7919  # a prime, so that ids do not repeat soon


def calibration_prompts(
    model: Any, tokenizer: Any = None, texts: Sequence[str] | None = None
) -> list[Tensor]:
    """Token ids of each prompt.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer; without one the prompts are ids spread over the vocabulary.
        texts: instead of the built-in ones; they need a tokenizer.

    Returns:
        `[1, T]` int64 each, T >= 2, on the model's device.

    Raises:
        ValueError: texts without a tokenizer, or none that has two tokens.
    """
    if texts is not None and tokenizer is None:
        raise ValueError("texts need a tokenizer; pass it, or leave texts out")
    if tokenizer is None:
        rows = token_rows(model.config)
    else:
        rows = [tokenizer(text)["input_ids"][:LONGEST] for text in texts or TEXTS]
    prompts = [torch.tensor([row], device=model.device) for row in rows if len(row) > 1]
    if not prompts:
        raise ValueError(f"{len(rows)} calibration texts hold no two tokens; pass longer ones")
    return prompts


def token_rows(config: Any) -> list[list[int]]:
    """Prompts of ids spread over the vocabulary, special tokens left out, BOS in front."""
    text = config.get_text_config()
    special = _special_ids(config) | _special_ids(text)
    first = [] if text.bos_token_id is None else [text.bos_token_id]
    usual = (step * STEP % text.vocab_size for step in range(1, text.vocab_size * STEP))
    plain = (number for number in usual if number not in special)
    return [first + [next(plain) for _ in range(LENGTH)] for _ in range(COUNT)]


def _special_ids(config: Any) -> set[int]:
    """Ids that a config names, such as those of image placeholders."""
    named = [
        value
        for name, value in config.to_dict().items()
        if name.endswith(("_token_id", "_token_index"))
    ]
    flat = [number for value in named for number in (value if isinstance(value, list) else [value])]
    return {number for number in flat if isinstance(number, int)}
