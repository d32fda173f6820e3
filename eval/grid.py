"""Run a benchmark unpruned, with every method at every budget, and with stages inside the LLM.

In: a model, a benchmark and one config for each run. Out: scored runs, compared with random tokens,
and the choices of the first images for pictures. All configs are checked against the model before
the first answer. Stages inside the LLM get their control at the same layers by themselves. It
writes nothing; `evaluate` does.
"""

import sys
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from time import perf_counter

import torch
from tqdm import tqdm

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.decoder import Decoder
from lvlm_prune.eval.answer import MAX_NEW_TOKENS, answer_all
from lvlm_prune.eval.attached import Answer, handed_marks
from lvlm_prune.eval.caption import LONGEST, Captioned, Scenes, caption_items
from lvlm_prune.eval.chosen import Chosen
from lvlm_prune.eval.compare import (
    compare_inside,
    compare_with_random,
    control_config,
    inside_key,
)
from lvlm_prune.eval.encoding import SharedEncodings
from lvlm_prune.eval.inside import UNPRUNED, base_of, inside_label
from lvlm_prune.eval.layer_use import layer_use
from lvlm_prune.eval.probe import Item, Probe
from lvlm_prune.eval.questions import Asked, prepare
from lvlm_prune.eval.results import RunResult, score_mme, score_pope
from lvlm_prune.eval.run_key import rows_fingerprint, run_key
from lvlm_prune.eval.sink_counts import count_sinks
from lvlm_prune.layers.checks import checked_plan
from lvlm_prune.layers.cost import LlmShape
from lvlm_prune.loading import Loaded
from lvlm_prune.stage import Choice

IMAGES_PER_PASS = 32
PICTURED = 4  # images whose choices are kept for pictures


@dataclass
class Said:
    """Answers to prompts with certain visual rows; other runs with the same rows reuse them.

    Args:
        run: name of the first run with these rows.
        answers: by the place of their question.
    """

    run: str | None = None
    answers: dict[int, Answer] = field(default_factory=dict)


class Grid:
    """A benchmark, a model and the runs to make.

    Args:
        loaded: the model.
        probe: the benchmark.
        configs: one for each run; what is inside the LLM stands on the run without it, which is
            added where it is missing.
        batch_size: questions in one batch.
        seed: seed of the bootstrap.
        pairs: methods that answer the MME pairs too, as the unpruned model always does; runs with
            something inside the LLM do not.
        scenes: what is in the images, to caption them too; None for no captions.
    """

    def __init__(
        self,
        loaded: Loaded,
        probe: Probe,
        configs: Sequence[PruneConfig],
        batch_size: int = 64,
        seed: int = 0,
        pairs: Collection[str] = (),
        scenes: Scenes | None = None,
    ) -> None:
        self.pairs = {*pairs, "identity"}
        self.loaded, self.probe, self.batch_size, self.seed = loaded, probe, batch_size, seed
        self.scenes = scenes
        inner = [config for config in configs if base_of(config) != config]
        bases = dict.fromkeys([UNPRUNED, *map(base_of, configs)])
        stages = [BoundaryStage(loaded.model, base) for base in bases]
        captions = [] if scenes is None else caption_items(probe.images)
        self.questions = prepare(loaded, [*probe.items, *captions], probe.images, probe.folder)
        self.captioned = self.questions.places(captions)
        layered = any(config.layers is not None for config in inner)
        self.decoder = Decoder(loaded.model) if layered else None
        # 49 and 0.25 can be the same budget; the first one stands for both.
        self.stages: list[BoundaryStage] = []
        self._inner: dict[int, dict[Hashable, PruneConfig]] = {}
        self._sort_out(stages, inner)
        self._check_sizes()
        counts_sinks = loaded.planted or any(c.sinks != "ignore" for c in configs)
        self.encodings = SharedEncodings(
            self.stages, self.questions, IMAGES_PER_PASS, sinks=counts_sinks
        )
        self.pictured: dict[str, list[Choice]] = {}
        self._said: dict[Hashable, Said] = {}

    def _sort_out(self, stages: Sequence[BoundaryStage], inner: Sequence[PruneConfig]) -> None:
        """Take every run once, and note what is run inside the LLM on which stage."""
        places: dict[Hashable, int] = {}
        numbers: dict[PruneConfig, int] = {}
        for stage in stages:
            number = places.setdefault(run_key(stage, self.questions.totals), len(self.stages))
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
        inputs = self.questions.inputs([0])
        for stage in self.stages:
            if stage.shrink is not None and stage.adapter.grid() is None:
                stage.encode(inputs)

    @torch.inference_mode()
    def run(self) -> list[RunResult]:
        """Answer every question with every run; the unpruned model first, inside the LLM last."""
        results: list[RunResult] = []
        configs = [stage.config for stage in self.stages]
        configs += [config for runs in self._inner.values() for config in runs.values()]
        count = sum(self._count(config) for config in configs)
        # A log file gets a line now and then, a terminal a bar that moves.
        pause = 0.2 if sys.stderr.isatty() else 10.0
        with tqdm(total=count, unit=" answers", mininterval=pause, smoothing=0.05) as bar:
            for number, stage in enumerate(self.stages):
                results += self._stage_results(stage, self._inner[number], bar)
        results.sort(key=lambda result: result.inside)
        plain = [result for result in results if not result.inside]
        compare_with_random(plain, self.questions.images, self.seed)
        return results

    def _stage_results(
        self, stage: BoundaryStage, inner: Mapping[Hashable, PruneConfig], bar: tqdm
    ) -> list[RunResult]:
        """One run before the LLM, all that stand on it, and their controls."""
        chosen = Chosen(stage, self.encodings.encoded(stage))
        rows = None if chosen.by_image is None else rows_fingerprint(chosen.by_image)
        alone = inside_key(stage.config, self.decoder)
        found = {alone: self._result(stage.config, chosen, alone, rows, bar)}
        for key, config in inner.items():
            found[key] = self._result(config, chosen, key, rows, bar)
        controls: dict[Hashable, Hashable] = {}
        for key, result in list(found.items()):
            control = control_config(result)
            if control is None:
                continue
            controls[key] = inside_key(control, self.decoder)
            if controls[key] not in found:
                bar.total += self._count(control)
                own = self._result(control, chosen, controls[key], rows, bar)
                measured = None in (result.stages or {}).values()
                own.control_of = result.label if measured else None
                found[controls[key]] = own
        compare_inside(found, controls, self.decoder, self.questions.images, self.seed)
        return list(found.values())

    def _count(self, config: PruneConfig) -> int:
        """Answers of a run."""
        return len(set(self.questions.places(self._items(config)))) + len(self.captioned)

    def shown_item(self, image: int) -> Item:
        """The first question about an image whose answer is yes, which pictures show."""
        name = self.questions.images[image]
        return next(i for i in self.probe.items if i.image == name and i.label == "yes")

    def asked(self, image: int) -> Asked:
        """The same question as the model reads it."""
        return self.questions.asked[self.questions.places([self.shown_item(image)])[0]]

    def _items(self, config: PruneConfig) -> list[Item]:
        """The benchmark lines of one run."""
        with_pairs = config.method in self.pairs and base_of(config) == config
        return [item for item in self.probe.items if with_pairs or item.benchmark != "mme"]

    def _result(
        self,
        config: PruneConfig,
        chosen: Chosen,
        key: Hashable,
        rows: int | None,
        bar: tqdm,
    ) -> RunResult:
        """Answer and score one run."""
        started = perf_counter()
        label = inside_label(config)
        name = f"{self.loaded.name} {config.method} {config.keep:g} {label}".strip()
        bar.set_description(name, refresh=False)
        items = self._items(config)
        places = self.questions.places(items)
        said = Said() if rows is None else self._said.setdefault((rows, key), Said())
        self._answer(places, MAX_NEW_TOKENS, config, chosen, said, bar)
        self._answer(self.captioned, LONGEST, config, chosen, said, bar)
        answers = [said.answers[place].text for place in places]
        choices = self._choices(chosen)
        result = RunResult(
            config=config,
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
        if self.scenes is not None:
            texts = [said.answers[place].text for place in self.captioned]
            result.captions = Captioned(texts, self.questions.images, self.scenes)
        if self.decoder is not None:
            self._note_layers(result, chosen, [said.answers[place] for place in places], places)
        if result.inside:
            return result
        sinks = self.encodings.sinks
        if sinks is not None and chosen.stage.shrink is None and chosen.by_image is not None:
            result.sinks = count_sinks(choices, sinks)
            choices = [replace(c, sinks=s) for c, s in zip(choices, sinks, strict=True)]
        self.pictured[result.name] = choices[:PICTURED]
        return result

    def _answer(
        self,
        places: Sequence[int],
        longest: int,
        config: PruneConfig,
        chosen: Chosen,
        said: Said,
        bar: tqdm,
    ) -> None:
        """Answer what nobody has answered yet."""
        needed = sorted(set(places) - set(said.answers))
        bar.update(len(set(places)) - len(needed))
        if needed:
            said.answers |= answer_all(
                self.questions, needed, chosen, self.batch_size, bar.update, config, longest
            )

    def _note_layers(
        self,
        result: RunResult,
        chosen: Chosen,
        answers: Sequence[Answer],
        places: Sequence[int],
    ) -> None:
        """Note how a run's stages were resolved, and what its LLM spent."""
        decoder = self.decoder
        if decoder is None:
            return
        asked = [self.questions.asked[place] for place in places]
        totals = [self.questions.totals[question.image] for question in asked]
        if result.config.layers is None:
            by_image = chosen.by_image
            kept = [
                result.kept if by_image is None else len(by_image[question.image].rows.kept)
                for question in asked
            ]
            answers = [
                Answer(answer.text, (tokens,) * decoder.depth, len(question.ids) - total)
                for answer, question, tokens, total in zip(
                    answers, asked, kept, totals, strict=True
                )
            ]
        else:
            result.stages = checked_plan(result.config.layers, decoder).stages
        result.use = layer_use(answers, totals, LlmShape.of(decoder.config))

    def _choices(self, chosen: Chosen) -> list[Choice]:
        """The choices for all images; for the pictured ones alone where every question has its own.

        Those answer the question that a picture shows.
        """
        if chosen.by_image is not None:
            return chosen.by_image
        count = min(PICTURED, len(self.questions.images))
        asked = [self.asked(image) for image in range(count)]
        return chosen.choices(asked, self.questions.arguments(asked))
