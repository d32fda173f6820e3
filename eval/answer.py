"""Answer every question greedily with the stock `generate`, on prompts that a choice shortened.

In: questions, and for each image the chosen rows. Out: the raw answers. A batch holds prompts of
nearly the same length, padded on the left; rows of one image carry the same features. The answers
are those of `attach(model, ...)` followed by `model.generate(**processor(...))`, only cheaper,
as an image is encoded and pruned once and not once a question.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lvlm_prune.eval.questions import Asked
from lvlm_prune.eval.workers import divided_threads
from lvlm_prune.loading import Loaded
from lvlm_prune.splice import splice
from lvlm_prune.stage import Choice

MAX_NEW_TOKENS = 4  # yes or no needs one or two; `generate` ends at the end token anyway


def answer_all(
    loaded: Loaded,
    asked: Sequence[Asked],
    choices: Sequence[Choice],
    output_type: type,
    batch_size: int,
    done: Callable[[int], Any] = lambda count: None,
) -> list[str]:
    """Answer all questions of a run.

    Args:
        loaded: model and processor.
        asked: the questions.
        choices: what was kept of each image, in the order that `Asked.image` counts.
        output_type: class of the encoder output that the model takes.
        batch_size: questions in one batch.
        done: called with the number of questions of each finished batch.

    Returns:
        The raw answers, without special tokens, in the order of `asked`.
    """
    answers = [""] * len(asked)
    with (
        divided_threads(loaded.model.device) as workers,
        giving_up(ThreadPoolExecutor(workers)) as pool,
    ):
        running = {}
        for places in batches(asked, batch_size):
            ids = [asked[place].ids for place in places]
            kept = [choices[asked[place].image] for place in places]
            running[pool.submit(answer_batch, loaded, ids, kept, output_type)] = places
        for future in as_completed(running):
            for place, text in zip(running[future], future.result(), strict=True):
                answers[place] = text
            done(len(running[future]))
    return answers


@torch.inference_mode()
def answer_batch(
    loaded: Loaded, ids: Sequence[Tensor], choices: Sequence[Choice], output_type: type
) -> list[str]:
    """Answer one batch of prompts, `[L]` each, with the chosen rows of each prompt's image."""
    rows = [choice.rows for choice in choices]
    inputs = padded(ids, loaded.processor.tokenizer)
    short, _ = splice(inputs, rows, loaded.model.config.image_token_id)
    output = loaded.model.generate(
        **{name: value.to(loaded.model.device) for name, value in short.items()},
        mm_encoder_outputs={"image": output_type(pooler_output=[row.features for row in rows])},
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )
    new = output[:, short["input_ids"].shape[1] :]
    return loaded.processor.batch_decode(new, skip_special_tokens=True)


@contextmanager
def giving_up(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """End a pool without the work that has not begun, which after an exception nobody wants."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def batches(asked: Sequence[Asked], size: int) -> Iterator[list[int]]:
    """Places of the questions, some at a time, sorted by length so that little is padded."""
    order = sorted(range(len(asked)), key=lambda place: len(asked[place].ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(rows: Sequence[Tensor], tokenizer: Any) -> dict[str, Tensor]:
    """Pad prompts on the left, `[B, L]`."""
    masks = [torch.ones_like(row) for row in rows]
    return {
        "input_ids": pad_sequence(
            list(rows), batch_first=True, padding_value=tokenizer.pad_token_id, padding_side="left"
        ),
        "attention_mask": pad_sequence(masks, batch_first=True, padding_side="left"),
    }
