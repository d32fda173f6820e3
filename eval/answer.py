"""Answer questions greedily with the stock `generate`, on prompts that a choice shortened.

In: questions and the choices of one stage. Out: the answers, handed on as each batch ends. A batch
holds prompts of nearly the same length, padded on the left, and is halved when memory runs out. The
answers are those of `attach(model, ...)` followed by `model.generate(**processor(...))`, by the
same code, only cheaper: an image is encoded once, and pruned once unless the method reads the
question. A call that fails is tried again with each question alone; what still fails is an answer
without text and with its error, never an empty text.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from time import perf_counter
from typing import Any

from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.attached import Answer, Answering, answering, contrasts
from lvlm_prune.eval.chosen import Chosen
from lvlm_prune.eval.halving import BatchLimit
from lvlm_prune.eval.questions import Asked, Questions
from lvlm_prune.eval.workers import CPU_WORKERS, divided_threads, giving_up
from lvlm_prune.report import peak_mib

Answers = dict[int, Answer]


def answer_all(
    questions: Questions,
    places: Sequence[int],
    chosen: Chosen | None,
    limit: BatchLimit,
    config: PruneConfig,
    longest: int,
    done: Callable[[Answers], Any] = lambda answers: None,
) -> Answers:
    """Answer some questions of a run.

    Args:
        questions: all questions, with the model.
        places: places of those to answer in `Questions.asked`; all about images or all without.
        chosen: the visual tokens of the run; None for questions without an image.
        limit: questions in one batch.
        config: of the run.
        longest: new tokens of an answer at most.
        done: given the answers of each batch as it ends, in the caller's thread.

    Returns:
        The answers by place.
    """
    answers: Answers = {}
    device = questions.loaded.model.device
    # A second answer of the model runs on its own state.
    workers = 1 if contrasts(config) else CPU_WORKERS
    with (
        answering(questions, chosen, config, longest) as answer,
        divided_threads(device, workers) as count,
        giving_up(ThreadPoolExecutor(count)) as pool,
    ):
        running = {}
        for batch in batches(questions, places, limit.size):
            asked = [questions.asked[place] for place in batch]
            running[pool.submit(_answered, answer, limit, device, asked)] = batch
        for future in as_completed(running):
            made = dict(zip(running[future], future.result(), strict=True))
            answers |= made
            done(made)
    return answers


def batches(questions: Questions, places: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places of the questions, some at a time, sorted by length so that little is padded."""
    order = sorted(places, key=lambda place: len(questions.asked[place].ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def failed(error: BaseException) -> str:
    """An error for a row: its class and its message."""
    return f"{type(error).__name__}: {error}"


def _answered(
    answer: Answering, limit: BatchLimit, device: Any, asked: Sequence[Asked]
) -> list[Answer]:
    """Answer a batch, in parts if it does not fit, and one by one if it fails."""

    def timed(some: Sequence[Asked]) -> list[Answer]:
        started = perf_counter()
        said = answer(some)
        seconds, peak = (perf_counter() - started) / len(some), peak_mib(device)
        return [replace(one, seconds=seconds, peak_mib=peak) for one in said]

    try:
        return [one for part in limit.run(timed, asked) for one in part]
    except Exception as error:
        if len(asked) == 1:
            return [Answer(None, error=failed(error))]
    return [one for question in asked for one in _answered(answer, limit, device, [question])]
