"""Run a benchmark unpruned and with every method at every budget.

In: a model, a benchmark and one config for each run. Out: scored runs, compared with `random` and
timed, and the choices of the first images for pictures. All configs are checked against the model
before the first answer. It writes nothing; `evaluate` does.
"""

import sys
import zlib
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from time import perf_counter

import torch
from torch import Tensor
from tqdm import tqdm

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.budget import tokens_to_keep
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.answer import answer_all
from lvlm_prune.eval.chosen import Chosen
from lvlm_prune.eval.encoding import SharedEncodings
from lvlm_prune.eval.interval import paired_bootstrap
from lvlm_prune.eval.prefill import StageTimes, interleaved
from lvlm_prune.eval.probe import Item, Probe
from lvlm_prune.eval.questions import Asked, prepare
from lvlm_prune.eval.results import RunResult, SinkCount, score_mme, score_pope
from lvlm_prune.eval.workers import divided_threads
from lvlm_prune.loading import Loaded
from lvlm_prune.stage import Choice

IMAGES_PER_PASS = 32
PICTURED = 4  # images whose choices are kept for pictures
TIMED_IMAGES = 8
TIMED_ROUNDS = 5


@dataclass
class Said:
    """Answers to prompts with certain visual rows; other runs with the same rows reuse them.

    Args:
        run: name of the first run with these rows.
        answers: raw answers by the place of their question.
    """

    run: str | None = None
    answers: dict[int, str] = field(default_factory=dict)


class Grid:
    """A benchmark, a model and the runs to make.

    Args:
        loaded: the model.
        probe: the benchmark.
        configs: one for each pruned run.
        batch_size: questions in one batch.
        seed: seed of the bootstrap.
        pairs: methods that answer the MME pairs too, as the unpruned model always does.
    """

    def __init__(
        self,
        loaded: Loaded,
        probe: Probe,
        configs: Sequence[PruneConfig],
        batch_size: int = 64,
        seed: int = 0,
        pairs: Collection[str] = (),
    ) -> None:
        self.pairs = {*pairs, "identity"}
        self.loaded, self.probe, self.batch_size, self.seed = loaded, probe, batch_size, seed
        baseline = PruneConfig(method="identity", keep=1.0)
        stages = [BoundaryStage(loaded.model, config) for config in (baseline, *configs)]
        self.questions = prepare(loaded, probe.items, probe.images, probe.folder)
        # 49 and 0.25 can be the same budget; the first one stands for both.
        keys = {run_key(stage, self.questions.totals): stage for stage in reversed(stages)}
        self.stages = list(keys.values())[::-1]
        self._check_sizes()
        counts_sinks = loaded.planted or any(c.sinks != "ignore" for c in configs)
        self.encodings = SharedEncodings(
            self.stages, self.questions, IMAGES_PER_PASS, sinks=counts_sinks
        )
        self.pictured: dict[str, list[Choice]] = {}
        self._said: dict[int, Said] = {}

    @torch.inference_mode()
    def _check_sizes(self) -> None:
        """Refuse a size that an image cannot be given, where its grid was not known before."""
        inputs = self.questions.inputs([0])
        for stage in self.stages:
            if stage.shrink is not None and stage.adapter.grid() is None:
                stage.encode(inputs)

    @torch.inference_mode()
    def run(self) -> list[RunResult]:
        """Answer every question with every stage, the unpruned model first."""
        results: list[RunResult] = []
        count = sum(len(set(self.questions.places(self._items(s)))) for s in self.stages)
        # A log file gets a line now and then, a terminal a bar that moves.
        pause = 0.2 if sys.stderr.isatty() else 10.0
        with tqdm(total=count, unit=" answers", mininterval=pause, smoothing=0.05) as bar:
            for stage in self.stages:
                name = f"{self.loaded.name} {stage.config.method} {stage.config.keep:g}"
                bar.set_description(name, refresh=False)
                results.append(self._result(stage, bar))
        self._compare(results)
        return results

    def shown_item(self, image: int) -> Item:
        """The first question about an image whose answer is yes, which pictures show."""
        name = self.questions.images[image]
        return next(i for i in self.probe.items if i.image == name and i.label == "yes")

    def asked(self, image: int) -> Asked:
        """The same question as the model reads it."""
        return self.questions.asked[self.questions.places([self.shown_item(image)])[0]]

    def _items(self, stage: BoundaryStage) -> list[Item]:
        """The benchmark lines of one run."""
        with_pairs = stage.method.name in self.pairs
        return [item for item in self.probe.items if with_pairs or item.benchmark != "mme"]

    def _result(self, stage: BoundaryStage, bar: tqdm) -> RunResult:
        """Answer and score one run."""
        started = perf_counter()
        chosen = Chosen(stage, self.encodings.encoded(stage))
        items = self._items(stage)
        places = self.questions.places(items)
        said = Said()
        if chosen.by_image is not None:
            said = self._said.setdefault(rows_fingerprint(chosen.by_image), said)
        needed = sorted(set(places) - set(said.answers))
        bar.update(len(set(places)) - len(needed))
        said.answers |= answer_all(self.questions, needed, chosen, self.batch_size, bar.update)
        answers = [said.answers[place] for place in places]
        choices = self._choices(chosen)
        result = RunResult(
            config=stage.config,
            kept=round(mean(len(choice.rows.kept) for choice in choices)),
            total=round(mean(choice.rows.total for choice in choices)),
            items=items,
            answers=answers,
            pope=score_pope(items, answers),
            mme=score_mme(items, answers),
            same_as=said.run,
            seconds=perf_counter() - started,
        )
        said.run = said.run or result.name
        sinks = self.encodings.sinks
        if sinks is not None and stage.shrink is None and chosen.by_image is not None:
            result.sinks = count_sinks(choices, sinks)
            choices = [replace(c, sinks=s) for c, s in zip(choices, sinks, strict=True)]
        self.pictured[result.name] = choices[:PICTURED]
        return result

    def _choices(self, chosen: Chosen) -> list[Choice]:
        """The choices for all images; for the pictured ones alone where every question has its own.

        Those answer the question that a picture shows.
        """
        if chosen.by_image is not None:
            return chosen.by_image
        count = min(PICTURED, len(self.questions.images))
        asked = [self.asked(image) for image in range(count)]
        return chosen.choices(asked, self.questions.arguments(asked))

    def _compare(self, results: Sequence[RunResult]) -> None:
        """Set every run's difference to `random` at the same budget, where that was run."""
        images = self.questions.images
        controls = {
            result.kept: result
            for result in results
            if result.config.method == "random" and result.config.sinks == "ignore"
        }
        for result in results:
            control = controls.get(result.kept)
            if control is None or control is result:
                continue
            ours, asked = result.right(images)
            theirs, _ = control.right(images)
            result.against_random = paired_bootstrap(ours, theirs, asked, self.seed)

    def measure(self, results: Sequence[RunResult]) -> tuple[StageTimes, str]:
        """Time one batch of the first images with every stage and note it on the results.

        Args:
            results: what `run` returned.

        Returns:
            Medians of the unpruned model, and what was measured, in words.
        """
        count = min(TIMED_IMAGES, len(self.questions.images))
        first = [self.asked(image).text for image in range(count)]
        pictures = [self.questions.picture(image) for image in range(count)]
        inputs = self.loaded.inputs(pictures, first)
        device = self.loaded.model.device
        with divided_threads(device):
            base, timings, rounds = interleaved(
                self.loaded.model,
                self.stages[0],
                self.stages[1:],
                inputs,
                TIMED_ROUNDS,
            )
            threads = f", {torch.get_num_threads()} thread(s)" if device.type == "cpu" else ""
        for result, timing in zip(results[1:], timings, strict=True):
            result.timing = timing
        return base, f"one batch of {len(first)} prompts, {rounds} rounds, {device.type}{threads}"


def run_key(stage: BoundaryStage, totals: Sequence[int]) -> tuple[Hashable, ...]:
    """What makes a run another run: everything but how its budget was asked for.

    Args:
        stage: the stage of the run.
        totals: N of each image.

    Raises:
        ValueError: a budget above the tokens of an image.
    """
    config = stage.config
    budget: Hashable = config.keep
    if config.per == "image":
        budget = tuple(tokens_to_keep(config.keep, total) for total in sorted(set(totals)))
    return config.method, config.sinks, config.per, config.order, budget


def rows_fingerprint(choices: Sequence[Choice]) -> int:
    """A number that depends on the kept tokens of all images and on their features alone."""
    check = 0
    for choice in choices:
        for tensor in (choice.rows.kept, choice.rows.features):
            data = tensor.detach().cpu().contiguous().view(torch.uint8)
            check = zlib.crc32(data.numpy().tobytes(), check)
    return check


def count_sinks(choices: Sequence[Choice], sinks: Sequence[Tensor]) -> SinkCount:
    """Count the sinks of all images and those that were kept."""
    return SinkCount(
        images=sum(bool(found.any()) for found in sinks),
        found=sum(int(found.sum()) for found in sinks),
        kept=sum(
            int(found[choice.rows.kept].sum()) for choice, found in zip(choices, sinks, strict=True)
        ),
    )
