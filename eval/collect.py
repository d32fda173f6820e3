"""Make the result of a run from its rows on disk.

In: a run whose questions are answered, by this process or by others. Out: a `RunResult` with what
was kept, what was said, and what the LLM spent. Rows are all it reads: a run that was resumed gives
the result of one that was not. Failed calls are counted and left out.
"""

from collections.abc import Mapping, Sequence
from statistics import mean

from lvlm_prune.decoder import Decoder
from lvlm_prune.eval.attached import Answer
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.caption import Captioned, Scenes
from lvlm_prune.eval.layer_use import LayerUse, layer_use
from lvlm_prune.eval.results import RunResult, score_mme, score_pope
from lvlm_prune.eval.row import Row
from lvlm_prune.eval.run import Run, Sheet, rows_by_item
from lvlm_prune.eval.sink_counts import SinkCount
from lvlm_prune.layers.checks import checked_plan
from lvlm_prune.layers.cost import LlmShape

CAPTION = "caption"


class Collector:
    """Makes results.

    Args:
        sheet: the questions of all runs.
        decoder: the model's LLM; None where no run has layer stages.
        scenes: what is in the probe's images, where they are captioned.
    """

    def __init__(self, sheet: Sheet, decoder: Decoder | None, scenes: Scenes | None) -> None:
        self.sheet, self.decoder, self.scenes = sheet, decoder, scenes
        self._is_probe = sheet.benchmark.name == "probe"

    def result(self, run: Run) -> RunResult:
        """The result of a run."""
        rows = [self.sheet.kept(place, run) for place in run.places]
        good = {row.id: row for row in rows if row.error is None}
        said = rows_by_item(good)
        items = [item for item in run.items if item.id in said and item.benchmark != CAPTION]
        answers = [said[item.id].text or "" for item in items]
        images = {row.image: row for row in reversed(good.values()) if row.image is not None}
        result = RunResult(
            config=run.config,
            name=run.name,
            hash=run.ledger.header.hash,
            kept=_mean([row.kept or 0 for row in images.values()]),
            total=_mean([row.total or 0 for row in images.values()]),
            items=items,
            answers=answers,
            pope=score_pope(items, answers) if self._is_probe else {},
            mme=score_mme(items, answers) if self._is_probe else {},
            same_as=_twin(list(good.values())),
            seconds=sum(row.seconds for row in rows),
            control_of=run.control_of,
            errors=len(rows) - len(good),
            rows=rows,
            asked=list(run.items),
        )
        if self.scenes is not None and self._is_probe:
            result.captions = self._captions(run.items, said)
        if not result.inside:
            result.sinks = _sinks(list(images.values()))
        self._note_layers(result, run, good)
        return result

    def _captions(self, items: Sequence[Item], said: Mapping[str, Row]) -> Captioned | None:
        """What the run said of each image."""
        lines = [item for item in items if item.benchmark == CAPTION and item.id in said]
        if self.scenes is None or not lines:
            return None
        texts = [said[item.id].text or "" for item in lines]
        return Captioned(texts, [item.image or "" for item in lines], self.scenes)

    def _note_layers(self, result: RunResult, run: Run, good: Mapping[str, Row]) -> None:
        """Note how a run's stages were resolved, and what its LLM spent on the yes/no questions."""
        decoder = self.decoder
        if decoder is None:
            return
        if run.config.layers is not None:
            result.stages = checked_plan(run.config.layers, decoder).stages
        wanted = {item.id for item in result.items}
        rows = [row for row in good.values() if wanted.intersection(row.items) and row.total]
        if rows:
            result.use = self._use(rows, decoder)

    def _use(self, rows: Sequence[Row], decoder: Decoder) -> LayerUse:
        """What the LLM spent on some rows."""
        spent = []
        for row in rows:
            tokens, words = row.tokens, row.words
            if not tokens:
                # Without stages all tokens that entered stay.
                tokens = (row.kept or 0,) * decoder.depth
                words = self.sheet.length(row.id) - (row.total or 0)
            spent.append(Answer(row.text, tokens, words))
        return layer_use(spent, [row.total or 0 for row in rows], LlmShape.of(decoder.config))


def _mean(values: Sequence[int]) -> int:
    """The mean of whole numbers, rounded; 0 of none."""
    return round(mean(values)) if values else 0


def _twin(rows: Sequence[Row]) -> str | None:
    """The run that handed the same rows of every image to the LLM; it may have asked less of it."""
    taken = [row for row in rows if row.same_as is not None]
    names = {row.same_as for row in taken}
    if len(names) == 1 and {row.image for row in taken} == {row.image for row in rows}:
        return names.pop()
    return None


def _sinks(rows: Sequence[Row]) -> SinkCount | None:
    """ViT sinks over the images, where somebody looked for them."""
    found = [row.sinks for row in rows if row.sinks is not None]
    if not found:
        return None
    return SinkCount(
        images=sum(marked > 0 for marked, _ in found),
        found=sum(marked for marked, _ in found),
        kept=sum(kept for _, kept in found),
    )
