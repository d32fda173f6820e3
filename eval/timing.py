"""Time the prefill of a grid's runs before the LLM, on one batch of its first images.

In: a grid and its results. Out: the results with their times, and in words what was measured. What
stages and reweighting inside the LLM cost is `lvlm-prune speed`'s business.
"""

from collections.abc import Sequence

import torch

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.eval.grid import Grid
from lvlm_prune.eval.halving import out_of_memory
from lvlm_prune.eval.prefill import StageTimes, interleaved
from lvlm_prune.eval.results import RunResult
from lvlm_prune.eval.workers import divided_threads

TIMED_IMAGES = 8
TIMED_ROUNDS = 5


def measure(grid: Grid, results: Sequence[RunResult]) -> tuple[StageTimes | None, str]:
    """Time one batch of the first sound images with every stage before the LLM, and note it.

    The batch is halved while it does not fit: the answers are there, and are not lost for a time.

    Args:
        grid: the model and the questions.
        results: what its `run` returned.

    Returns:
        Medians of the unpruned model, or None where there was nothing to time, and what was
        measured, in words.
    """
    images = grid.sound()[:TIMED_IMAGES]
    if not images:
        return None, "nothing: there is no image that every run could answer about"
    while True:
        try:
            return _measured(grid, results, images)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            images = images[: len(images) // 2]
        if not images:
            return None, "nothing: memory ran out with a single prompt"


def _measured(
    grid: Grid, results: Sequence[RunResult], images: Sequence[int]
) -> tuple[StageTimes, str]:
    """Time one batch of some images."""
    loaded, questions = grid.loaded, grid.questions
    first = [grid.asked(image).text for image in images]
    pictures = [questions.picture(image) for image in images]
    inputs = loaded.inputs(pictures, first)
    # Marks are read for stages inside the LLM alone, which are not timed here.
    stages = [BoundaryStage(loaded.model, stage.config) for stage in grid.stages]
    device = loaded.model.device
    with divided_threads(device):
        base, timings, rounds = interleaved(
            loaded.model, stages[0], stages[1:], inputs, TIMED_ROUNDS
        )
        threads = f", {torch.get_num_threads()} thread(s)" if device.type == "cpu" else ""
    plain = [result for result in results if not result.inside]
    for result, timing in zip(plain[1:], timings, strict=True):
        result.timing = timing
    said = f"one batch of {len(first)} prompts, {rounds} rounds, {device.type}{threads}"
    ends = [timing.llm_quartiles for timing in timings if timing.llm_quartiles is not None]
    if ends:
        # On a busy machine rounds disagree, and a reader has to know.
        apart = max(high - low for low, high in ends)
        said += f"; quartiles of a run's LLM ratio at most {apart:.2f} apart"
    return base, said
