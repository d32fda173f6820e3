"""Answer every question greedily with the stock `generate`, on prompts that a choice shortened.

In: questions and the choices of one stage. Out: the raw answers. A batch holds prompts of nearly
the same length, padded on the left. The answers are those of `attach(model, ...)` followed by
`model.generate(**processor(...))`, by the same code, only cheaper: an image is encoded once, and
pruned once unless the method reads the question.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import torch

from lvlm_prune.eval.chosen import Chosen
from lvlm_prune.eval.questions import Asked, Questions
from lvlm_prune.eval.workers import divided_threads, giving_up
from lvlm_prune.generation import PrunedGenerate

MAX_NEW_TOKENS = 4  # yes or no needs one or two; `generate` ends at the end token anyway


def answer_all(
    questions: Questions,
    places: Sequence[int],
    chosen: Chosen,
    batch_size: int,
    done: Callable[[int], Any] = lambda count: None,
) -> dict[int, str]:
    """Answer some questions of a run.

    Args:
        questions: all questions, with the model.
        places: places of those to answer in `Questions.asked`.
        chosen: the visual tokens of the run.
        batch_size: questions in one batch.
        done: called with the number of questions of each finished batch.

    Returns:
        The raw answers by place, without special tokens.
    """
    answers: dict[int, str] = {}
    with (
        divided_threads(questions.loaded.model.device) as workers,
        giving_up(ThreadPoolExecutor(workers)) as pool,
    ):
        running = {}
        for batch in batches(questions, places, batch_size):
            asked = [questions.asked[place] for place in batch]
            running[pool.submit(answer_batch, questions, asked, chosen)] = batch
        for future in as_completed(running):
            answers.update(zip(running[future], future.result(), strict=True))
            done(len(running[future]))
    return answers


@torch.inference_mode()
def answer_batch(questions: Questions, asked: Sequence[Asked], chosen: Chosen) -> list[str]:
    """Answer one batch of questions."""
    loaded, arguments = questions.loaded, questions.arguments(asked)
    stage = chosen.ready(chosen.choices(asked, arguments))
    generate = PrunedGenerate(stage, lambda report: None, loaded.model.generate)
    output = generate(**arguments, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    new = output[:, arguments["input_ids"].shape[1] :]
    return loaded.processor.batch_decode(new, skip_special_tokens=True)


def batches(questions: Questions, places: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places of the questions, some at a time, sorted by length so that little is padded."""
    order = sorted(places, key=lambda place: len(questions.asked[place].ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]
