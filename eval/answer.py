"""Answer every question greedily with the stock `generate`, on prompts that a choice shortened.

In: questions and the choices of one stage. Out: the answers. A batch holds prompts of nearly the
same length, padded on the left. The answers are those of `attach(model, ...)` followed by
`model.generate(**processor(...))`, by the same code, only cheaper: an image is encoded once, and
pruned once unless the method reads the question.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.attached import Answer, answering, contrasts
from lvlm_prune.eval.chosen import Chosen
from lvlm_prune.eval.questions import Questions
from lvlm_prune.eval.workers import CPU_WORKERS, divided_threads, giving_up

MAX_NEW_TOKENS = 4  # yes or no needs one or two; `generate` ends at the end token anyway


def answer_all(
    questions: Questions,
    places: Sequence[int],
    chosen: Chosen,
    batch_size: int,
    done: Callable[[int], Any] = lambda count: None,
    config: PruneConfig | None = None,
    longest: int = MAX_NEW_TOKENS,
) -> dict[int, Answer]:
    """Answer some questions of a run.

    Args:
        questions: all questions, with the model.
        places: places of those to answer in `Questions.asked`.
        chosen: the visual tokens of the run.
        batch_size: questions in one batch.
        done: called with the number of questions of each finished batch.
        config: of the run, where it does more than the stage that chose.
        longest: new tokens of an answer at most.

    Returns:
        The answers by place.
    """
    config = config or chosen.stage.config
    answers: dict[int, Answer] = {}
    with (
        answering(questions, chosen, config, longest) as answer,
        divided_threads(
            questions.loaded.model.device, 1 if contrasts(config) else CPU_WORKERS
        ) as workers,
        giving_up(ThreadPoolExecutor(workers)) as pool,
    ):
        running = {}
        for batch in batches(questions, places, batch_size):
            asked = [questions.asked[place] for place in batch]
            running[pool.submit(answer, asked)] = batch
        for future in as_completed(running):
            answers.update(zip(running[future], future.result(), strict=True))
            done(len(running[future]))
    return answers


def batches(questions: Questions, places: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places of the questions, some at a time, sorted by length so that little is padded."""
    order = sorted(places, key=lambda place: len(questions.asked[place].ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]
