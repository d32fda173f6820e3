"""How to read a report, and what it cannot say.

In: its sections. Out: parts that explain only what the report holds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lvlm_prune.eval.bootstrap import DRAWS
from lvlm_prune.eval.report_caution import LEAST_UNITS, WIDEST
from lvlm_prune.eval.report_document import Bullets, Heading, Part
from lvlm_prune.eval.report_numbers import counted, percent
from lvlm_prune.eval.report_sections import Section


def guide_parts(sections: Sequence[Section], results: Mapping[str, Any]) -> list[Part]:
    """The last two headings of a report."""
    timing = results.get("timing")
    return [
        Heading(2, "How to read it"),
        Bullets(tuple(_reading(sections))),
        Heading(2, "Limits"),
        Bullets(tuple(_limits(sections, str(timing) if timing else None))),
    ]


def _reading(sections: Sequence[Section]) -> list[str]:
    """What the columns are."""
    texts = [
        "kept: visual tokens of an image that enter the LLM (the mean, where images differ).",
        f"[95 %]: percentile bootstrap, {DRAWS:,} draws of whole images with their questions. Of a "
        "difference, both runs see the same draw; an interval that holds 0 means that this sample "
        "cannot tell the runs apart, not that they are equal.",
    ]
    if any(section.staged for section in sections):
        texts.append(
            "average over layers: visual tokens of an image at a layer of the LLM, the mean over "
            "its layers; stages inside the LLM drop some of those that enter."
        )
    if any(section.compared for section in sections):
        texts.append(
            f"too few images to tell: fewer than {LEAST_UNITS} images were drawn, or the 95 % "
            f"interval of a difference is wider than {percent(2 * WIDEST)} of the scale. No run is "
            "called free of a visible loss on those."
        )
    if any(entry.answers for section in sections for entry in section.entries):
        texts += [
            "lines yes→no / no→yes: benchmark lines whose answer flipped from the baseline to the "
            "run. yes-ratio: share of answers read as yes; shift: run minus "
            "baseline on the lines that both answered.",
            "prompts right→wrong / wrong→right: distinct prompts whose answer turned wrong or "
            "right; lines that share a prompt share its answer and are no further evidence. "
            "McNemar p: exact two-sided test whether as many turned wrong as right. "
            f"Holm p: adjusted for {_family(sections)}.",
            "unparsed / empty / error: answers that name neither yes nor no, answers without text, "
            "calls that failed. The first two are scored as the official script does; failed calls "
            "are left out.",
        ]
    if any(entry.llm_ratio is not None for section in sections for entry in section.entries):
        texts.append(
            "prefill, LLM / all: selection, splice and the LLM up to the first token as a share of "
            "the unpruned LLM prefill, and time to the first token with the encoder, as a share of "
            "the unpruned one. Ratios of the same round, medians over rounds."
        )
    texts.append(
        "Pareto front (dotted, rings): runs that no other run beats, with at least its score at no "
        "higher cost. It is drawn through the measured values; runs whose intervals overlap may "
        "change places."
    )
    return texts


def _family(sections: Sequence[Section]) -> str:
    """How many comparisons were made."""
    sizes = [sum(e.answers is not None for e in section.entries) for section in sections]
    named = [
        f"{counted(size, 'run')} ({section.name})"
        for size, section in zip(sizes, sections, strict=True)
        if size
    ]
    return f"all runs compared with the baseline: {', '.join(named)}"


def _limits(sections: Sequence[Section], timing: str | None) -> list[str]:
    """What the numbers do not say."""
    count = sum(len(section.compared) for section in sections)
    texts = [
        "The numbers are of this model, this prompt and these questions.",
        "The intervals hold the choice of images, not the choice of a model's weights, of a prompt "
        "or of a seed. A share that is exactly 0 or 1 has an interval without width, which is "
        "too narrow.",
    ]
    if any(section.captions for section in sections):
        texts.append(
            "Captions that name less make up less: a lower rate of made-up objects says something "
            "only beside recall."
        )
    if count > 1:
        texts.append(
            f"{count} differences to the baseline are shown. At 95 % about one in twenty intervals "
            "misses by chance, and intervals are not adjusted; Holm p is. The run that looks best "
            "of many is partly lucky."
        )
    if any(entry.answers for section in sections for entry in section.entries):
        texts.append(
            "McNemar's test takes prompts as independent; questions about one image are not quite, "
            "so where it and the interval disagree, the interval is the safer one."
        )
    if timing:
        texts.append(f"Times were measured on {timing}; other hardware has other ratios.")
    return texts
