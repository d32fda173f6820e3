"""Several evaluations side by side: one table and one plot for each scoring rule.

In: folders of `eval` with a `results.json`, or folders that hold such folders (one a model). Out:
`report.md` and `report.html` in a folder, and the table for the terminal. Scores on other data are
other scores, so folders whose data differ are refused, with both versions; other prompts,
generation settings or models are what one may want to compare, and are said. Differences stay those
to the baseline of each folder; nothing is paired across folders.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from lvlm_prune.eval.compare_files import FILE, Evaluation, check_out, make_folder, read_evaluations
from lvlm_prune.eval.own_files import COMPARED
from lvlm_prune.eval.report_about import about_parts
from lvlm_prune.eval.report_caution import cautions
from lvlm_prune.eval.report_document import Bullets, Heading, Part
from lvlm_prune.eval.report_guide import guide_parts
from lvlm_prune.eval.report_numbers import difference, interval, tokens
from lvlm_prune.eval.report_sections import Section, adjusted, sections_of
from lvlm_prune.eval.report_write import section_parts, write_document
from lvlm_prune.tables import aligned

# What makes runs differ besides what was pruned, and how a sentence says so.
WATCHED = {
    "model": "model differs",
    "fingerprint": "model fingerprint differs",
    "planted_sinks": "planted sinks differ",
    "prompt": "prompt differs",
    "generation": "generation settings differ",
    "seed": "seed differs",
    "device": "device differs",
    "dtype": "number type differs",
    "lvlm_prune": "lvlm-prune version differs",
    "torch": "torch version differs",
    "transformers": "transformers version differs",
}


@dataclass(frozen=True)
class Compared:
    """What was compared.

    Args:
        text: table for the terminal.
        warnings: sentences about what differs.
        folder: where the report lies.
    """

    text: str
    warnings: tuple[str, ...]
    folder: Path


def compare_folders(folders: Sequence[Path], out: Path, force: bool = False) -> Compared:
    """Compare evaluations and write the report.

    Args:
        folders: of `eval`, or folders that hold them.
        out: folder of the report.
        force: compare also where the data differ.

    Raises:
        ValueError: fewer than two evaluations, other data, a file that is no result file, or a
            folder for the report that is one of them or cannot be written.
        FileNotFoundError: a folder without a result file.
    """
    evaluations = read_evaluations(folders)
    if len(evaluations) < 2:
        raise ValueError(
            f"compare needs two evaluations, got {len(evaluations)} ({folders[0]}); name another "
            "folder that `lvlm-prune eval --out` wrote"
        )
    check_out(out, evaluations)
    differing = data_differences(evaluations)
    if differing and not force:
        raise ValueError(
            f"{' '.join(differing)} Scores on other data are other scores; run eval again on the "
            "same data, or compare all the same with --force"
        )
    warnings = (*differing, *setting_differences(evaluations))
    sections = joined_sections(evaluations)
    make_folder(out)
    names = ", ".join(evaluation.name for evaluation in evaluations)
    parts: list[Part] = [Heading(1, f"{COMPARED}{names}")]
    parts.append(Bullets((_what_is_shown(evaluations), *_cautions(evaluations)), strong=True))
    if warnings:
        parts += [Heading(2, "What differs besides the pruning"), Bullets(warnings)]
    for section in sections:
        parts += section_parts(section, out)
    for evaluation in evaluations:
        parts += about_parts(evaluation.results, f"What was run: {evaluation.name}")
    parts += guide_parts(sections, {"timing": _timings(evaluations)})
    write_document(out, parts)
    return Compared(terminal_table(sections), warnings, out)


def data_differences(evaluations: Sequence[Evaluation]) -> list[str]:
    """Sentences about benchmarks whose data are not the same everywhere."""
    sentences = []
    names = dict.fromkeys(name for one in evaluations for name in one.results["benchmarks"])
    for name in names:
        having = [one for one in evaluations if name in one.results["benchmarks"]]
        for one, other in pairwise(having):
            versions = [_leaves(_data_version(each, name)) for each in (one, other)]
            differing = [each for each in _every(versions) if _differs(each, versions)]
            if differing:
                told = [_told(version, differing) for version in versions]
                sentences.append(
                    f"{name} is not the same data in {one.name} ({told[0]}) and in {other.name} "
                    f"({told[1]})."
                )
    return sentences


def _data_version(evaluation: Evaluation, name: str) -> dict[str, Any]:
    """Hashes of the files, and how many lines were asked."""
    about = evaluation.results["benchmarks"][name]
    return {**about.get("version", {}), "lines": about.get("lines")}


def setting_differences(evaluations: Sequence[Evaluation]) -> list[str]:
    """Sentences about what else differs."""
    sentences = []
    for key, words in WATCHED.items():
        found = {one.name: _leaves(one.results.get(key)) for one in evaluations}
        differing = [name for name in _every(found.values()) if _differs(name, found.values())]
        if differing:
            told = "; ".join(
                f"{name}: `{_told(leaves, differing)}`" for name, leaves in found.items()
            )
            sentences.append(f"The {words}: {told}.")
    return sentences


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The single values of a setting, by names such as `max_new_tokens.pope`."""
    if not isinstance(value, dict):
        return {name: value}
    found: dict[str, Any] = {}
    for inner, each in value.items():
        found |= _leaves(each, f"{name}.{inner}" if name else inner)
    return found


def _every(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """All names, each once."""
    return list(dict.fromkeys(name for leaves in found for name in leaves))


def _differs(name: str, found: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a value is another one somewhere.

    An answer's length is written for each benchmark that was run, so one that an evaluation lacks
    while it has others is no difference.
    """
    limits = "max_new_tokens."
    values = [
        leaves.get(name)
        for leaves in found
        if name in leaves
        or not (name.startswith(limits) and any(each.startswith(limits) for each in leaves))
    ]
    return len({json.dumps(value, sort_keys=True) for value in values}) > 1


def _told(leaves: Mapping[str, Any], names: Sequence[str]) -> str:
    """The values of an evaluation that are others elsewhere."""
    if names == [""]:
        return _shown(leaves.get(""))
    given = {name: leaves[name] for name in names if name in leaves}
    return _shown(given) if given else "none"


def _shown(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items())
    return str(value).replace("\n", "\\n").replace("`", "'")


def joined_sections(evaluations: Sequence[Evaluation]) -> list[Section]:
    """Each scoring rule with the runs of all folders, which their names begin with."""
    joined: dict[tuple[str, str], Section] = {}
    for evaluation in evaluations:
        for section in sections_of(evaluation.results):
            entries = tuple(
                replace(
                    entry,
                    run=f"{evaluation.name}/{entry.run}",
                    label=f"{evaluation.name}: {entry.label}",
                )
                for entry in section.entries
            )
            key = section.benchmark, section.key
            before = joined.get(key)
            if before is not None and before.metric != section.metric:
                raise ValueError(
                    f"{section.name} is headed by {before.metric} and by {section.metric} "
                    f"({evaluation.folder / FILE}); run eval again with one version"
                )
            entries = entries if before is None else (*before.entries, *entries)
            joined[key] = replace(section, entries=entries)
    return [adjusted(section) for section in joined.values()]


def terminal_table(sections: Sequence[Section]) -> str:
    """One line for each run of each rule."""
    lines: list[str] = []
    for section in sections:
        rows = [["run", "kept", section.metric, "minus its baseline"]]
        rows += [
            [
                entry.label,
                f"{tokens(entry.kept)} of {tokens(entry.total)}",
                interval(entry.headline, section.scale),
                difference(section.gain(entry), section.scale),
            ]
            for entry in section.entries
        ]
        lines += [section.name, *(f"  {line}" for line in aligned(rows)), ""]
    return "\n".join(lines).rstrip()


def _what_is_shown(evaluations: Sequence[Evaluation]) -> str:
    """The first paragraph."""
    runs = sum(len(one.results["runs"]) for one in evaluations)
    return (
        f"{len(evaluations)} evaluations with {runs} runs. Every difference is to the baseline of "
        "the same evaluation; between evaluations only scores with their intervals stand side by "
        "side."
    )


def _cautions(evaluations: Sequence[Evaluation]) -> list[str]:
    """What weakens the numbers of each evaluation, as its own report says it."""
    return [
        f"{evaluation.name}, {section.name}: {sentence}"
        for evaluation in evaluations
        for section in sections_of(evaluation.results)
        for sentence in cautions(section)
    ]


def _timings(evaluations: Sequence[Evaluation]) -> str:
    """What was timed, of all."""
    said = [(one.name, one.results.get("timing")) for one in evaluations]
    return "; ".join(f"{timing} ({name})" for name, timing in said if timing)
