"""Answer as an attached model does, from images that were encoded and pruned once.

In: a model, a config and the choices of its stage. Out: for the length of a block, a `generate`
that is the one of `attach(model, config)` but for the encoder: the layer stage and the reweighting
are attached for real, and between them and the stock `generate` stands the same wrapper, given
choices that were made before. Each thread has its own. A contrast needs pixels and runs a second
answer on the model's own state, so it takes the plain `attach` and one thread. Questions without an
image pass the wrapper untouched, as they do in an attached model.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.attachment import attach
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.chosen import Chosen, ReadyStage
from lvlm_prune.eval.questions import Asked, Questions
from lvlm_prune.generate_chain import unwrap_generate, wrap_generate
from lvlm_prune.generation import PrunedGenerate
from lvlm_prune.inside import inside, wanted_marks
from lvlm_prune.layers.stage import LayerStage
from lvlm_prune.reweight.registry import reweighter_named
from lvlm_prune.stage import Choice

# None lets a call through as it is.
_ready: ContextVar[ReadyStage | None] = ContextVar("lvlm_prune_ready_stage")


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Args:
        text: raw, without special tokens; None if the call failed.
        tokens: visual tokens at each decoder layer; empty without stages inside the LLM.
        words: text tokens of the prompt, with stages inside the LLM.
        kept: visual tokens that entered the LLM.
        total: visual tokens before pruning.
        sinks: ViT sinks of the image and how many were kept, or None where nobody looked.
        error: what went wrong, or None.
        seconds: share of its batch's wall time.
        peak_mib: peak memory so far, of the process on a CPU, of the device on a GPU.
    """

    text: str | None
    tokens: tuple[int, ...] = ()
    words: int = 0
    kept: int | None = None
    total: int | None = None
    sinks: tuple[int, int] | None = None
    error: str | None = None
    seconds: float = 0.0
    peak_mib: float | None = None


Answering = Callable[[Sequence[Asked]], list[Answer]]


class ChosenGenerate:
    """Stands in for `model.generate`, where an attachment's pruning would stand.

    Args:
        model: the model.
    """

    original: Any

    def __init__(self, model: Any) -> None:
        functools.update_wrapper(self, model.generate, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate from the choices of this thread."""
        ready = _ready.get()
        if ready is None:
            return self.original(*args, **kwargs)
        return PrunedGenerate(ready, lambda report: None, self.original)(*args, **kwargs)


def contrasts(config: PruneConfig) -> bool:
    """Whether a config's reweighting runs a second answer beside the real one."""
    if config.reweight is None:
        return False
    method = reweighter_named(config.reweight.method)
    options = config.reweight.complete()
    return method.contrast is not None and method.contrast(options) is not None


def handed_marks(config: PruneConfig) -> tuple[str, ...]:
    """The marks that an attachment of this config hands to the LLM.

    Without pruning before the LLM it looks at the encoder for nothing but `local` tokens.
    """
    marks = wanted_marks(config)
    return marks if config.prunes_before_llm or "local" in marks else ()


@contextmanager
def answering(
    questions: Questions, chosen: Chosen | None, config: PruneConfig, longest: int
) -> Iterator[Answering]:
    """Attach a config while the block runs.

    Args:
        questions: with the model.
        chosen: the visual tokens of the config's stage; None for questions without an image.
        config: of the run.
        longest: new tokens of an answer at most.

    Yields:
        A function that answers a batch; threads may call it at once unless the config `contrasts`.
    """
    model = questions.loaded.model
    if contrasts(config) and chosen is not None:
        with attach(model, config) as handle:
            yield partial(_from_pixels, questions, chosen, handle.layers, longest)
        return
    generate = ChosenGenerate(model)
    wrap_generate(model, generate)
    try:
        if chosen is None:
            yield partial(_from_text, questions, longest)
            return
        with inside(model, config) as layers:
            marks = handed_marks(config)
            yield partial(_from_choices, questions, chosen, marks, layers, longest)
    finally:
        unwrap_generate(model, generate)


@torch.inference_mode()
def _from_choices(
    questions: Questions,
    chosen: Chosen,
    marks: tuple[str, ...],
    layers: LayerStage | None,
    longest: int,
    asked: Sequence[Asked],
) -> list[Answer]:
    """Answer a batch from the visual tokens that were chosen."""
    arguments = questions.arguments(asked)
    choices = chosen.choices(asked, arguments)
    _ready.set(chosen.ready(choices, marks))
    return _counted(_answers(questions, layers, longest, arguments), chosen, choices, asked)


@torch.inference_mode()
def _from_pixels(
    questions: Questions,
    chosen: Chosen,
    layers: LayerStage | None,
    longest: int,
    asked: Sequence[Asked],
) -> list[Answer]:
    """Answer a batch from its images."""
    pictures = [questions.picture(one.image) for one in asked if one.image is not None]
    arguments = questions.loaded.inputs(pictures, [question.text for question in asked])
    answers = _answers(questions, layers, longest, arguments)
    return _counted(answers, chosen, chosen.choices(asked, arguments), asked)


@torch.inference_mode()
def _from_text(questions: Questions, longest: int, asked: Sequence[Asked]) -> list[Answer]:
    """Answer a batch of questions without images."""
    _ready.set(None)
    answers = _answers(questions, None, longest, questions.arguments(asked))
    return [replace(answer, kept=0, total=0) for answer in answers]


def _counted(
    answers: Sequence[Answer], chosen: Chosen, choices: Sequence[Choice], asked: Sequence[Asked]
) -> list[Answer]:
    """Answers with the visual tokens of their prompts."""
    found = []
    # Where every question has its own tokens, an image has no one number of kept sinks.
    marks = None if chosen.by_image is None else chosen.sinks
    for answer, choice, question in zip(answers, choices, asked, strict=True):
        rows, sinks = choice.rows, None
        if marks is not None and question.image is not None:
            marked = marks[question.image]
            sinks = int(marked.sum()), int(marked[rows.kept].sum())
        found.append(replace(answer, kept=len(rows.kept), total=rows.total, sinks=sinks))
    return found


def _answers(
    questions: Questions, layers: LayerStage | None, longest: int, arguments: dict[str, Tensor]
) -> list[Answer]:
    """Generate greedily and read the answers and the tokens of each layer."""
    loaded = questions.loaded
    output = loaded.model.generate(**arguments, max_new_tokens=longest, do_sample=False)
    new = output[:, arguments["input_ids"].shape[1] :]
    texts = loaded.processor.batch_decode(new, skip_special_tokens=True)
    if layers is None:
        return [Answer(text) for text in texts]
    report = layers.report
    counted = zip(texts, report.tokens, report.text, strict=True)
    return [Answer(text, tuple(tokens), words) for text, tokens, words in counted]
