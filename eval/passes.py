"""Go through the questions once: encode images, choose their tokens, answer, write rows.

In: a grid and the runs to make. Out: nothing; the rows are in the runs' ledgers. Images are held in
memory a portion at a time; where one portion holds all of them, methods share encoder passes. Runs
that hand exactly the same rows to the LLM, and do the same inside it, share their answers. What was
answered before is not asked again. An image that a stage cannot encode fails alone.
"""

import sys
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lvlm_prune.eval.answer import Answers, answer_all, failed
from lvlm_prune.eval.attached import Answer
from lvlm_prune.eval.chosen import Chosen
from lvlm_prune.eval.encoding import SharedEncodings
from lvlm_prune.eval.halving import BatchLimit
from lvlm_prune.eval.progress import progress
from lvlm_prune.eval.run import Run
from lvlm_prune.eval.run_key import rows_fingerprint

if TYPE_CHECKING:
    from lvlm_prune.eval.grid import Grid

IMAGES_PER_PASS = 32
HELD_BYTES = 2 * 2**30  # features and signals of the images that are held at a time
COPIES = 4  # features, encoder rows and signals of a token, in features
HOPELESS = 16  # failed answers at the start of a run, without a good one, that end everything


class HopelessRunError(RuntimeError):
    """Every call of a run fails."""


class AnswerPass:
    """One pass over the questions.

    Args:
        grid: model, questions and stages.
        runs: the runs of each stage, by its number.
    """

    def __init__(self, grid: "Grid", runs: Mapping[int, Sequence[Run]]) -> None:
        self.grid, self.runs = grid, runs
        self.sheet, self.questions = grid.sheet, grid.questions
        self.processes = grid.settings.processes
        self.left = {run: self.sheet.left(run) for each in runs.values() for run in each}
        self.batch = BatchLimit(grid.settings.batch_size, self._say)
        self.images = BatchLimit(IMAGES_PER_PASS, self._say)
        total = sum(len(self.sheet.own(run)) for run in self.left)
        done = total - sum(map(len, self.left.values()))
        self.bar = progress(total, " answers", quiet=not self.processes.first, done=done)
        self._twins: dict[Hashable, Run] = {}
        self._failed: Counter[Run] = Counter()

    @torch.inference_mode()
    def run(self) -> None:
        """Answer what is left, and wait for the other processes.

        Raises:
            HopelessRunError: a run without a good answer.
        """
        with self.bar:
            self._note_unreadable()
            portions = self._portions()
            whole = portions[0] if len(portions) == 1 else None
            shared = None if whole is None else self._encodings(list(self.runs), whole)
            for number, runs in self.runs.items():
                for portion in portions:
                    self._portion(number, runs, portion, shared)
                self._without_image(runs)
        self.processes.wait()
        for run in self.left:
            run.ledger.close()
            if self.processes.count > 1:
                run.ledger.read()
        self._check_answers()

    def _say(self, sentence: str) -> None:
        """Tell the user something between the lines of the bar."""
        self.bar.write(sentence, file=sys.stderr)

    def _held(self) -> int:
        """Images that are held in memory at a time."""
        model = self.grid.loaded.model
        width = model.config.get_text_config().hidden_size * model.dtype.itemsize
        tokens = max([*self.questions.totals, 1])
        return max(IMAGES_PER_PASS, HELD_BYTES // (tokens * width * COPIES))

    def _portions(self) -> list[list[int]]:
        """The images that any run still needs, some at a time."""
        asked = self.questions.asked
        needed = {asked[place].image for places in self.left.values() for place in places}
        images = sorted(image for image in needed if image is not None)
        size = self._held()
        return [images[start : start + size] for start in range(0, len(images), size)]

    def _encodings(self, numbers: Sequence[int], images: Sequence[int]) -> SharedEncodings:
        """Encoder passes of the stages that have something left to do."""
        waiting = [number for number in numbers if any(self.left[run] for run in self.runs[number])]
        stages = [self.grid.stages[number] for number in waiting]
        sinks = self.grid.counts_sinks
        return SharedEncodings(stages, self.questions, images, self.images, sinks)

    def _portion(
        self,
        number: int,
        runs: Sequence[Run],
        images: Sequence[int],
        shared: SharedEncodings | None,
    ) -> None:
        """One stage on some images, and all runs that stand on it; halved if any image fails."""
        inside = set(images)
        asked = self.questions.asked
        todo = {run: [p for p in self.left[run] if asked[p].image in inside] for run in runs}
        if not any(todo.values()):
            return
        self._title(runs[0])
        chosen, why = self._chosen(number, images, shared)
        if chosen is None and (shared is not None or len(images) > 1):
            half = max(len(images) // 2, 1)
            for start in range(0, len(images), half):
                self._portion(number, runs, images[start : start + half], None)
            return
        if chosen is None:
            for run in runs:
                self._write_failed(run, dict.fromkeys(todo[run], why))
                self._check_hope(run, [why] * len(todo[run]))
            return
        by_image = chosen.by_image
        rows = None if by_image is None else rows_fingerprint(list(by_image.values()))
        for run in runs:
            self._title(run)
            twin = None
            if rows is not None:
                twin = self._twins.setdefault((tuple(images), rows, run.key), run)
            self._answer(run, todo[run], chosen, twin)

    def _chosen(
        self, number: int, images: Sequence[int], shared: SharedEncodings | None
    ) -> tuple[Chosen | None, str]:
        """Encode some images and choose their tokens, or say why that fails."""
        stage = self.grid.stages[number]
        try:
            encodings = shared or self._encodings([number], images)
            encoded = encodings.encoded(stage)
            marked = encodings.sinks if stage.shrink is None else None
            return Chosen(stage, images, encoded, marked), ""
        except Exception as error:
            return None, failed(error)

    def _answer(
        self, run: Run, places: Sequence[int], chosen: Chosen | None, twin: Run | None
    ) -> None:
        """Answer some questions of a run, or take over what a run with the same rows said."""
        if twin is not None and twin is not run:
            taken = {place: self.sheet.copied(place, twin) for place in places}
            rows = [row for row in taken.values() if row is not None]
            run.ledger.add(rows)
            self.bar.update(len(rows))
            places = [place for place in places if taken[place] is None]

        def keep(answers: Answers) -> None:
            run.ledger.add([self.sheet.row(place, answer) for place, answer in answers.items()])
            self.bar.update(len(answers))
            self._check_hope(run, [answer.error for answer in answers.values()])

        by_length: dict[int, list[int]] = {}
        for place in places:
            longest = self.grid.settings.longest or self.sheet.longest(place)
            by_length.setdefault(longest, []).append(place)
        for longest, some in sorted(by_length.items()):
            answer_all(self.questions, some, chosen, self.batch, run.config, longest, keep)

    def _without_image(self, runs: Sequence[Run]) -> None:
        """Questions without an image; they are the same for every stage before the LLM."""
        for run in runs:
            places = [p for p in self.left[run] if self.questions.asked[p].image is None]
            if places:
                self._title(run)
                twin = self._twins.setdefault(("without image", run.key), run)
                self._answer(run, places, None, twin)

    def _note_unreadable(self) -> None:
        """Write the questions about images that cannot be read as failed calls.

        Raises:
            HopelessRunError: no image can be read, and every question is about one.
        """
        broken, asked = self.questions.broken, self.questions.asked
        if asked and all(one.image in broken for one in asked):
            none = f"none of the {len(broken)} images can be read, such as"
            said = none if len(broken) > 1 else "the only image cannot be read"
            raise HopelessRunError(f"{said}: {next(iter(broken.values()))}")
        for error in broken.values() if self.processes.first else ():
            self._say(f"cannot be read: {error}")
        for run, places in self.left.items():
            found = {place: asked[place].image for place in places}
            errors = {place: broken[image] for place, image in found.items() if image in broken}
            self._write_failed(run, errors)
            self.left[run] = [place for place in places if place not in errors]

    def _write_failed(self, run: Run, errors: Mapping[int, str]) -> None:
        """Write failed calls."""
        run.ledger.add([self.sheet.row(p, Answer(None, error=text)) for p, text in errors.items()])
        self.bar.update(len(errors))

    def _check_hope(self, run: Run, errors: Sequence[str | None]) -> None:
        """Give up where every call fails: nobody wants to wait for thousands of the same error.

        Args:
            run: the run.
            errors: of its new answers, None of a good one.

        Raises:
            HopelessRunError: with the last error.
        """
        if any(row.error is None for row in run.ledger.rows.values()):
            return
        self._failed[run] += len(errors)
        if self._failed[run] >= HOPELESS:
            raise HopelessRunError(
                f"all of the first {self._failed[run]} answers of run {run.name} failed; the last "
                f"one: {errors[-1]}"
            )

    def _check_answers(self) -> None:
        """Give up where a run ended without a good answer: scores of nothing are no scores.

        Raises:
            HopelessRunError: with the last error.
        """
        for run in self.left:
            names = [self.sheet.name(place) for place in run.places]
            rows = [run.ledger.rows[name] for name in names if name in run.ledger.rows]
            if rows and len(rows) == len(names) and all(row.error is not None for row in rows):
                raise HopelessRunError(
                    f"all {len(rows)} answers of run {run.name} failed; the last one: "
                    f"{rows[-1].error}"
                )

    def _title(self, run: Run) -> None:
        """Show what is being done."""
        who = f" (process 1 of {self.processes.count})" if self.processes.count > 1 else ""
        self.bar.set_description(f"{self.grid.loaded.name} {run.name}{who}", refresh=False)
