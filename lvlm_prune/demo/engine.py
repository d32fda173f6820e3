"""One loaded model that answers for everybody, one step at a time, and remembers its answers.

In: questions about images and settings. Out: `Answered` and `Measured`, from a cache where they
were made before. The model is used by one thread of the engine's own, so that two users never meet
in it; something is attached only inside a step, so nothing stays attached between requests, also
after an error. It knows nothing of pages.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch
from torch import Tensor

from lvlm_prune.adapters import GenericAdapter, adapter_for
from lvlm_prune.attachment import attach, unwrap
from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.capabilities import refused_methods
from lvlm_prune.config import PruneConfig
from lvlm_prune.demo.cache import ByteLimitedCache
from lvlm_prune.demo.cancelling import Job
from lvlm_prune.demo.measure import measure
from lvlm_prune.demo.results import UNSTEADY, Answered, Asked, Measured
from lvlm_prune.demo.settings import UNPRUNED, Asking, Settings
from lvlm_prune.encoder_reading import read_encoder
from lvlm_prune.inside import wanted_marks
from lvlm_prune.loading import Loaded
from lvlm_prune.show_answer import answer
from lvlm_prune.show_figure import Drawn, whole
from lvlm_prune.views import View, views

CACHE_BYTES = 16 * 2**20
NEW_TOKENS = 32
Made = TypeVar("Made")


class Engine:
    """A model behind one thread.

    Args:
        loaded: model and processor.
        cache_bytes: limit of all remembered results.
        max_new_tokens: longest answer.
        unsteady: a larger spread of the rounds is not remembered.
    """

    def __init__(
        self,
        loaded: Loaded,
        cache_bytes: int = CACHE_BYTES,
        max_new_tokens: int = NEW_TOKENS,
        unsteady: float = UNSTEADY,
    ) -> None:
        self.loaded = loaded
        self.model = unwrap(loaded.model)
        self.max_new_tokens = max_new_tokens
        self.unsteady = unsteady
        self.cache = ByteLimitedCache(cache_bytes)
        # Always the same thread: others would each make threads and memory pools of their own.
        self._thread = ThreadPoolExecutor(1, "model")

    def close(self) -> None:
        """End the thread, without the steps that have not begun."""
        self._thread.shutdown(cancel_futures=True)

    def ask(self, asking: Asking, settings: Settings, job: Job | None = None) -> Asked:
        """Answer with all visual tokens and with those kept, and measure both.

        Args:
            asking: question and image.
            settings: how to prune.
            job: ends the work early; None for work that nobody cancels.

        Raises:
            ValueError, TypeError, RuntimeError: settings that do not fit model or image.
            CancelledError: the job was cancelled.
        """
        job = job or Job()
        full = self.full(asking, job)
        return Asked(full, self.pruned(asking, settings, job), self.measured(asking, settings, job))

    def full(self, asking: Asking, job: Job) -> Answered:
        """The answer of the unpruned model, and the ViT sinks of the image; see `ask`."""
        return self._remembered((asking.key, None), lambda: self._full(asking, job), job)

    def pruned(self, asking: Asking, settings: Settings, job: Job) -> Answered:
        """The answer of the pruned model; see `ask`."""
        return self._remembered(
            (asking.key, settings), lambda: self._pruned(asking, settings, job), job
        )

    def measured(self, asking: Asking, settings: Settings, job: Job) -> Measured:
        """Times and memory of both, measured in turn; see `ask`.

        What was measured on a busy machine is not remembered.
        """

        def make() -> Measured:
            stages = [self._stage(UNPRUNED), self._stage(settings.config())]
            return measure(self.model, stages, self._inputs(asking), job)

        def steady(measured: Measured) -> bool:
            return measured.spread <= self.unsteady

        return self._remembered((asking.key, settings, "measured"), make, job, steady)

    def refused_methods(self) -> frozenset[str]:
        """Names of the methods that this model cannot run."""
        adapter = adapter_for(self.model)
        generic = isinstance(adapter, GenericAdapter)
        return frozenset(refused_methods(None if generic else adapter))

    def visual_tokens(self, asking: Asking) -> int:
        """Visual tokens of an image that can be kept: of those that show it, all.

        Newline tokens between rows of tiles are none of these; only the encoder tells them apart.
        """
        adapter = adapter_for(self.model)

        def count() -> int:
            inputs = self._inputs(asking)
            if adapter.newlines:
                return self._choice(inputs, UNPRUNED).candidates
            return int((inputs["input_ids"] == adapter.token_id("image")).sum())

        return self._in_thread(count)

    def views(self, asking: Asking, choice: Drawn) -> list[list[View]]:
        """The image as the encoder saw it, in rows; none where its tokens form no known grid."""
        processor = self.loaded.processor.image_processor
        return self._in_thread(
            lambda: views(asking.image, self._inputs(asking), choice.tiles, processor)
        )

    def _inputs(self, asking: Asking) -> dict[str, Tensor]:
        """What the processor makes of a question.

        Raises:
            ValueError: the question holds the model's placeholder of an image.
        """
        for name in ("image_token", "video_token"):
            token = getattr(self.loaded.processor, name, None)
            if isinstance(token, str) and token in asking.question:
                raise ValueError(
                    f"The question holds {token}, which stands for an image in this model's "
                    "prompts; leave it out."
                )
        return self.loaded.inputs([asking.image], [asking.question])

    def _full(self, asking: Asking, job: Job) -> Answered:
        """See `full`."""
        inputs = self._inputs(asking)
        sinks = read_encoder(adapter_for(self.model), inputs).sinks
        text, yes_no = self._answer(inputs, False, job)
        return Answered(text, yes_no, self._choice(inputs, UNPRUNED), sinks)

    def _pruned(self, asking: Asking, settings: Settings, job: Job) -> Answered:
        """See `pruned`."""
        inputs, config = self._inputs(asking), settings.config()
        choice = self._choice(inputs, config)
        with attach(self.model, config) as handle:
            contrasted = handle.reweighting is not None and handle.reweighting.contrast is not None
            text, yes_no = self._answer(inputs, contrasted, job)
        return Answered(text, yes_no, choice)

    def _answer(
        self, inputs: dict[str, Tensor], contrasted: bool, job: Job
    ) -> tuple[str, tuple[float, float] | None]:
        """The greedy answer with the probabilities of yes and no, unless the job is cancelled."""
        with job.watching(self.model):
            return answer(self.loaded, inputs, self.max_new_tokens, contrasted)

    def _choice(self, inputs: dict[str, Tensor], config: PruneConfig) -> Drawn:
        """Which visual tokens a config lets into the LLM."""
        stage = self._stage(config)
        with torch.inference_mode():
            return whole(stage.select(stage.encode(inputs)))

    def _stage(self, config: PruneConfig) -> BoundaryStage:
        """What a config does before the LLM."""
        return BoundaryStage(self.model, config, None, wanted_marks(config))

    def _remembered(
        self,
        key: Hashable,
        make: Callable[[], Made],
        job: Job,
        worth: Callable[[Made], bool] = lambda made: True,
    ) -> Made:
        """A result from the cache, or made in the engine's thread and kept where it is worth it."""
        if (found := self.cache.get(key)) is not None:
            return found

        def step() -> Made:
            job.check()
            # Somebody else may have asked the same while this step waited for its turn.
            if (now := self.cache.get(key)) is not None:
                return now
            made = make()
            if worth(made):
                self.cache.put(key, made)
            return made

        return self._in_thread(step)

    def _in_thread(self, step: Callable[[], Made]) -> Made:
        """Run a step in the engine's thread, after those that were asked for before."""
        # A context of its own: what a step that fails has announced does not reach the next one.
        return self._thread.submit(copy_context().run, step).result()
