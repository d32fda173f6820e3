"""lmms-eval: a model class for its entry-point group `lmms_eval.models` (lmms-eval 0.7).

In: `model_args`, which hold the model and every prune option. lmms-eval stores answers under them,
so nothing that changes an answer may come from elsewhere. Out: answers in the order of the
requests, batch by batch: the iterator is lazy, so that lmms-eval stores each answer before the next
batch runs and a crash loses none. A failed batch raises. Only lmms-eval imports this module.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from loguru import logger
from tqdm import tqdm

from lvlm_prune.eval.integrations.arguments import read_arguments
from lvlm_prune.eval.integrations.chat import Part, PrunedChat, interleave
from lvlm_prune.eval.integrations.generation import read_generation

MANIFESTS = (ModelManifest("lvlm_prune", simple_class_path=f"{__name__}.LvlmPrune"),)


class LvlmPrune(lmms):
    """A pruned model.

    Args:
        batch_size: requests in one call of `generate`.
        max_batch_size: lmms-eval's bound for `--batch_size auto`, which is not known here.
        device: torch device; None is that of this process.
        **settings: `pretrained` and any field of PruneConfig.

    Raises:
        ValueError: an unknown setting, a value that cannot be read, or no number as batch size.
        TypeError, OSError: see `attach` and `load`.
    """

    is_simple = True

    def __init__(
        self,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        arguments = read_arguments(settings)
        self.batch_size = _batch_size(batch_size)
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        self.device = _device(self.accelerator, device)
        self.chat = PrunedChat(arguments, str(self.device))
        self._unused: set[str] = set()
        logger.info(f"lvlm-prune: {arguments.pretrained}, {arguments.config.summary()}")

    def generate_until(self, requests: Sequence[Any]) -> Iterator[str]:
        """Answer requests, lazily and in their order.

        Args:
            requests: with `args` (text, generation settings, doc_to_visual, doc id, task, split).

        Yields:
            One raw answer a request.
        """
        with tqdm(total=len(requests), disable=self._rank != 0, desc="lvlm-prune") as progress:
            for batch in _batches(requests, self.batch_size):
                answers = self._answers(batch)
                # Before the answers: nobody asks a lazy iterator for what follows its last one.
                progress.update(len(batch))
                yield from answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: the logits of a pruned prompt have other places than the caller's tokens."""
        raise NotImplementedError(
            "lvlm_prune generates answers and scores none; choose tasks whose output_type is "
            "generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused: there are no rounds."""
        raise NotImplementedError(
            "lvlm_prune answers one question at a time; choose tasks whose output_type is "
            "generate_until"
        )

    def clean(self) -> None:
        """Detach and let the model go; lmms-eval calls this after the last request."""
        self.chat.detach()
        del self.chat
        super().clean()

    def _answers(self, batch: Sequence[Any]) -> list[str]:
        """Answer one batch, whose requests generate alike."""
        generation = read_generation(batch[0].args[1])
        new = set(generation.unused) - self._unused
        if new and self._rank == 0:
            logger.warning(f"lvlm-prune: generation settings without a use here: {sorted(new)}")
        self._unused |= new
        try:
            return self.chat.answer([self._parts(request) for request in batch], generation)
        except Exception:
            documents = [request.args[3] for request in batch]
            logger.error(f"lvlm-prune: no answer for documents {documents} of {batch[0].args[4]}")
            raise

    def _parts(self, request: Any) -> list[Part]:
        """The parts of a request's prompt."""
        text, _, doc_to_visual, document, task, split = request.args
        return interleave(text, doc_to_visual(self.task_dict[task][split][document]) or ())


def _batches(requests: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Requests that follow each other and generate alike, some at a time."""
    for _, alike in groupby(requests, key=lambda request: repr(request.args[1])):
        group = list(alike)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _batch_size(value: int | str) -> int:
    """A number of requests, which the command line gives as text."""
    if not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"--batch_size must be a number from 1, got {value!r}; try 8")
    return int(value)


def _device(accelerator: Accelerator, name: str | None) -> torch.device:
    """The device of this process."""
    own = torch.device(accelerator.device)
    if name is None:
        return own
    asked = torch.device(name)
    if accelerator.num_processes == 1:
        return asked
    if asked.type != own.type:
        raise ValueError(
            f"--device {name} with {accelerator.num_processes} processes on {own.type}; leave "
            "--device out, accelerate gives each process its own"
        )
    return own
