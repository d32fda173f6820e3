"""Run a benchmark unpruned, with every method at every budget, and with stages inside the LLM.

In: a model, a benchmark and one config for each run. Out: scored runs, compared with random tokens.
All configs are checked against the model before the first answer. Answers go to disk as they come
and are not asked twice; stages inside the LLM get their control at the same layers by themselves,
once what they are to match was measured.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.decoder import Decoder
from lvlm_prune.eval.attached import handed_marks
from lvlm_prune.eval.benchmark import Benchmark, Item
from lvlm_prune.eval.caption import Scenes
from lvlm_prune.eval.collect import Collector
from lvlm_prune.eval.compare import (
    compare_inside,
    compare_with_random,
    control_config,
    inside_key,
)
from lvlm_prune.eval.grid_settings import DEFAULT, GridSettings
from lvlm_prune.eval.inside import UNPRUNED, base_of
from lvlm_prune.eval.ledger import Ledger, remove_answers
from lvlm_prune.eval.passes import AnswerPass
from lvlm_prune.eval.pictured import pictured_choices
from lvlm_prune.eval.progress import progress
from lvlm_prune.eval.questions import Asked, prepare
from lvlm_prune.eval.results import RunResult
from lvlm_prune.eval.run import Run, Sheet, run_name
from lvlm_prune.eval.run_header import run_header
from lvlm_prune.eval.run_key import run_key
from lvlm_prune.fingerprint import weights_fingerprint
from lvlm_prune.loading import Loaded
from lvlm_prune.stage import Choice

PROBE = "probe"
PICTURED = 4  # images in pictures


class Grid:
    """A benchmark, a model and the runs to make.

    Args:
        loaded: the model.
        benchmark: the benchmark.
        configs: one for each run; what is inside the LLM stands on the run without it, which is
            added where it is missing.
        settings: how it is run.
        scenes: what is in the probe's images, where they are captioned.
    """

    def __init__(
        self,
        loaded: Loaded,
        benchmark: Benchmark,
        configs: Sequence[PruneConfig],
        settings: GridSettings = DEFAULT,
        scenes: Scenes | None = None,
    ) -> None:
        self.loaded, self.benchmark, self.settings = loaded, benchmark, settings
        self.scenes = scenes
        inner = [config for config in configs if base_of(config) != config]
        bases = dict.fromkeys([UNPRUNED, *map(base_of, configs)])
        stages = [BoundaryStage(loaded.model, base) for base in bases]
        with progress(len(benchmark.images), " images", "reading", self._quiet) as bar:
            self.questions = prepare(
                loaded, benchmark.items, benchmark.files, settings.template, bar.update
            )
        self.sheet = Sheet(benchmark, self.questions, settings.processes)
        layered = any(config.layers is not None for config in inner)
        self.decoder = Decoder(loaded.model) if layered else None
        # 49 and 0.25 can be the same budget; the first one stands for both.
        self.stages: list[BoundaryStage] = []
        self._inner: dict[int, dict[Hashable, PruneConfig]] = {}
        self._sort_out(stages, inner)
        self._check_sizes()
        self.counts_sinks = loaded.planted or any(c.sinks != "ignore" for c in configs)
        self.fingerprint = weights_fingerprint(loaded.model)
        self.runs = {number: self._runs(number) for number in range(len(self.stages))}
        self._pictured: dict[str, list[Choice]] = {}

    @property
    def _quiet(self) -> bool:
        """Whether another process shows the progress."""
        return not self.settings.processes.first

    @property
    def _totals(self) -> list[int]:
        """N of each image that can be read."""
        return [self.questions.totals[image] for image in self.questions.readable()]

    def _sort_out(self, stages: Sequence[BoundaryStage], inner: Sequence[PruneConfig]) -> None:
        """Take every run once, and note what is run inside the LLM on which stage."""
        places: dict[Hashable, int] = {}
        numbers: dict[PruneConfig, int] = {}
        for stage in stages:
            number = places.setdefault(run_key(stage, self._totals), len(self.stages))
            numbers[stage.config] = number
            if number == len(self.stages):
                self.stages.append(stage)
                self._inner[number] = {}
        for config in inner:
            runs = self._inner[numbers[base_of(config)]]
            runs.setdefault(inside_key(config, self.decoder), config)
        for number, stage in enumerate(self.stages):
            runs = self._inner[number]
            marks = [name for config in runs.values() for name in handed_marks(config)]
            if marks:
                model, marks = self.loaded.model, list(dict.fromkeys(marks))
                self.stages[number] = BoundaryStage(model, stage.config, None, marks)

    @torch.inference_mode()
    def _check_sizes(self) -> None:
        """Refuse a size that an image cannot be given, where its grid was not known before."""
        first = self.questions.readable()[:1]
        for stage in self.stages if first else []:
            if stage.shrink is not None and stage.adapter.grid() is None:
                stage.encode(self.questions.inputs(first))

    def _runs(self, number: int) -> list[Run]:
        """The runs that share a stage: the one before the LLM, and those that stand on it."""
        config = self.stages[number].config
        alone = self._run(config, inside_key(config, self.decoder))
        return [alone, *(self._run(one, key) for key, one in self._inner[number].items())]

    def _run(self, config: PruneConfig, key: Hashable, control_of: str | None = None) -> Run:
        """A run with its answers so far."""
        settings = self.settings
        label = None if control_of is None else f"random as {control_of}"
        name = run_name(config, label)
        items = self._items(config)
        # A run may grow: the first images are the same with any limit, and so are the questions
        # beside those of another kind.
        version, growing = self.benchmark.version, self.benchmark.growing
        data = {key: value for key, value in version.items() if key not in growing}
        header = run_header(
            self.loaded,
            self.fingerprint,
            config,
            name,
            self.benchmark.name,
            data,
            settings.template,
            self.generation,
        )
        folder = None if settings.out is None else settings.out / name / self.benchmark.name
        if folder is not None and control_of is not None:
            # What it is to match was measured, and is another with more images or fewer errors.
            folder /= header.hash
        if settings.restart and folder is not None:
            if settings.processes.first:
                remove_answers(folder)
            settings.processes.wait()
        ledger = Ledger(folder, header, settings.processes.rank)
        places = sorted(set(self.questions.places(items)))
        run = Run(config, name, key, items, places, ledger, control_of)
        self.sheet.check_images(run)
        return run

    @property
    def generation(self) -> dict[str, Any]:
        """Settings of `generate` that an answer depends on."""
        stored = self.loaded.model.generation_config.to_diff_dict()
        stored.pop("transformers_version", None)
        return {
            "do_sample": False,
            "max_new_tokens": self.settings.longest or dict(self.benchmark.longest),
            "generation_config": {name: stored[name] for name in sorted(stored)},
        }

    def run(self) -> list[RunResult]:
        """Answer every question with every run, and score them.

        Returns:
            The unpruned run first, those inside the LLM last; nothing where another process does
            the scoring.
        """
        collector = Collector(self.sheet, self.decoder, self.scenes)
        AnswerPass(self, self.runs).run()
        controls = self._controls(collector)
        if controls:
            AnswerPass(self, controls).run()
            for number, runs in controls.items():
                self.runs[number] += runs
        if not self.settings.processes.first:
            return []
        return self._results(collector)

    def _controls(self, collector: Collector) -> dict[int, list[Run]]:
        """The runs of random tokens at the same layers as the runs that were made."""
        found: dict[int, list[Run]] = {}
        for number, runs in self.runs.items():
            known = {run.key for run in runs}
            for run in list(runs):
                result = collector.result(run)
                control = control_config(result)
                if control is None:
                    continue
                key = inside_key(control, self.decoder)
                if key not in known:
                    known.add(key)
                    measured = None in (result.stages or {}).values()
                    made = self._run(control, key, result.label if measured else None)
                    found.setdefault(number, []).append(made)
        return found

    def _results(self, collector: Collector) -> list[RunResult]:
        """Score the runs and set them beside their controls."""
        results: list[RunResult] = []
        for runs in self.runs.values():
            found = {run.key: collector.result(run) for run in runs}
            controls: dict[Hashable, Hashable] = {}
            for key, result in found.items():
                control = control_config(result)
                if control is not None:
                    controls[key] = inside_key(control, self.decoder)
            if self._is_probe:
                compare_inside(
                    found, controls, self.decoder, self.questions.images, self.settings.seed
                )
            results += found.values()
        results.sort(key=lambda result: result.inside)
        if self._is_probe:
            plain = [result for result in results if not result.inside]
            compare_with_random(plain, self.questions.images, self.settings.seed)
        return results

    def sound(self) -> list[int]:
        """Places of the images that no call has failed on, for pictures and timing."""
        ledgers = [run.ledger for runs in self.runs.values() for run in runs]
        rows = [row for ledger in ledgers for row in ledger.rows.values()]
        failed = {row.image for row in rows if row.error is not None}
        images = self.questions.images
        return [place for place in self.questions.readable() if images[place] not in failed]

    @property
    def _is_probe(self) -> bool:
        """Whether the questions are those of our own probe."""
        return self.benchmark.name == PROBE

    def _items(self, config: PruneConfig) -> list[Item]:
        """The benchmark lines of one run."""
        items, pairs = list(self.benchmark.items), self.settings.pairs
        if not self._is_probe or pairs is None:
            return items
        with_pairs = config.method in {*pairs, "identity"} and base_of(config) == config
        return [item for item in items if with_pairs or item.benchmark != "mme"]

    def shown_item(self, image: int) -> Item:
        """The first question about an image whose answer is yes, or its first, for pictures."""
        name = self.questions.images[image]
        about = [item for item in self.benchmark.items if item.image == name]
        return next((item for item in about if item.label == "yes"), about[0])

    def asked(self, image: int) -> Asked:
        """The same question as the model reads it."""
        return self.questions.asked[self.questions.places([self.shown_item(image)])[0]]

    def pictured(self, name: str) -> list[Choice]:
        """What a run before the LLM chose for the first sound images.

        Args:
            name: of the run.
        """
        if name not in self._pictured:
            asked = [self.asked(image) for image in self.sound()[:PICTURED]]
            number = next(n for n, runs in self.runs.items() if runs[0].name == name)
            self._pictured[name] = pictured_choices(
                self.stages[number], self.questions, asked, self.counts_sinks
            )
        return self._pictured[name]
