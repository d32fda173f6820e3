"""Several evaluations side by side: one table and one plot for each scoring rule.

In: folders of `eval` with a `results.json`, or folders that hold such folders (one a model). Out:
`report.md` and `report.html` in a folder, and the table for the terminal. Scores on other data are
other scores, so folders whose data differ are refused, with both versions; other prompts,
generation settings or models are what one may want to compare, and are said. Differences stay those
to the baseline of each folder; nothing is paired across folders.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from lvlm_prune.eval.report_about import about_parts
from lvlm_prune.eval.report_document import Bullets, Heading, Part
from lvlm_prune.eval.report_guide import guide_parts
from lvlm_prune.eval.report_numbers import difference, interval, tokens
from lvlm_prune.eval.report_sections import Section, adjusted, sections_of
from lvlm_prune.eval.report_write import section_parts, write_document
from lvlm_prune.tables import aligned

FILE = "results.json"
# What makes runs differ besides what was pruned, with its name in sentences.
WATCHED = {
    "model": "model",
    "fingerprint": "model fingerprint",
    "planted_sinks": "planted sinks",
    "prompt": "prompt",
    "generation": "generation settings",
    "seed": "seed",
    "device": "device",
    "lvlm_prune": "lvlm-prune version",
    "torch": "torch version",
    "transformers": "transformers version",
}


@dataclass(frozen=True)
class Evaluation:
    """A folder of `eval`.

    Args:
        name: as short as it can be told from the others.
        folder: where it lies.
        results: values of its `results.json`.
    """

    name: str
    folder: Path
    results: Mapping[str, Any]


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
            folder for the report that is one of them.
        FileNotFoundError: a folder without a result file.
    """
    evaluations = read_evaluations(folders)
    if len(evaluations) < 2:
        raise ValueError(
            f"compare needs two evaluations, got {len(evaluations)} ({folders[0]}); name another "
            "folder that `lvlm-prune eval --out` wrote"
        )
    if any(evaluation.folder.resolve() == out.resolve() for evaluation in evaluations):
        raise ValueError(f"--out {out} is one of the evaluations, whose own report would be lost")
    differing = data_differences(evaluations)
    if differing and not force:
        raise ValueError(
            f"{' '.join(differing)} Scores on other data are other scores; run eval again on the "
            "same data, or compare all the same with --force"
        )
    warnings = (*differing, *setting_differences(evaluations))
    sections = joined_sections(evaluations)
    out.mkdir(parents=True, exist_ok=True)
    names = ", ".join(evaluation.name for evaluation in evaluations)
    parts: list[Part] = [Heading(1, f"Compared: {names}")]
    parts.append(Bullets((_what_is_shown(evaluations),), strong=True))
    if warnings:
        parts += [Heading(2, "What differs besides the pruning"), Bullets(warnings)]
    for section in sections:
        parts += section_parts(section, out)
    for evaluation in evaluations:
        parts += about_parts(evaluation.results, f"What was run: {evaluation.name}")
    parts += guide_parts(sections, {"timing": _timings(evaluations)})
    write_document(out, parts)
    return Compared(terminal_table(sections), warnings, out)


def read_evaluations(folders: Sequence[Path]) -> list[Evaluation]:
    """Read the result files, each with the shortest name that tells it from the others."""
    every = (path for folder in folders for path in _result_folders(folder))
    found = list({path.resolve(): path for path in every}.values())
    names = _short_names([folder.resolve() for folder in found])
    return [
        Evaluation(name, folder, _read(folder / FILE))
        for name, folder in zip(names, found, strict=True)
    ]


def _result_folders(folder: Path) -> list[Path]:
    """The folder itself, or those of its models."""
    if (folder / FILE).is_file():
        return [folder]
    inside = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
    if not inside:
        raise FileNotFoundError(
            f"no {FILE} in {folder} or in its folders; name a folder that `lvlm-prune eval --out` "
            "wrote"
        )
    return inside


def _read(path: Path) -> Mapping[str, Any]:
    """The values of a result file that this version can show."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON file ({error}); run eval again") from error
    missing = [
        name
        for name, kind in (("benchmarks", dict), ("runs", list))
        if not isinstance(values, dict) or not isinstance(values.get(name), kind)
    ]
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(missing)}, so it is not of this version of eval; run "
            "eval again, which reuses the answers"
        )
    return dict(values)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as make all of them differ."""
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def data_differences(evaluations: Sequence[Evaluation]) -> list[str]:
    """Sentences about benchmarks whose data are not the same everywhere."""
    sentences = []
    names = dict.fromkeys(name for one in evaluations for name in one.results["benchmarks"])
    for name in names:
        having = [one for one in evaluations if name in one.results["benchmarks"]]
        for one, other in pairwise(having):
            versions = [_data_version(each, name) for each in (one, other)]
            if versions[0] != versions[1]:
                sentences.append(
                    f"{name} is not the same data in {one.name} ({_shown(versions[0])}) and in "
                    f"{other.name} ({_shown(versions[1])})."
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
        values = {one.name: one.results.get(key) for one in evaluations}
        if len({json.dumps(value, sort_keys=True) for value in values.values()}) > 1:
            told = "; ".join(f"{name}: `{_shown(value)}`" for name, value in values.items())
            sentences.append(f"The {words} differs: {told}.")
    return sentences


def _shown(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items())
    return str(value).replace("\n", "\\n").replace("`", "'")


def joined_sections(evaluations: Sequence[Evaluation]) -> list[Section]:
    """Each scoring rule with the runs of all folders, which their names begin with."""
    joined: dict[tuple[str, str], Section] = {}
    for evaluation in evaluations:
        for section in _sections(evaluation):
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
                    f"({evaluation.name}); run eval again with one version"
                )
            entries = entries if before is None else (*before.entries, *entries)
            joined[key] = replace(section, entries=entries)
    return [adjusted(section) for section in joined.values()]


def _sections(evaluation: Evaluation) -> list[Section]:
    """The sections of one folder."""
    try:
        return sections_of(evaluation.results)
    except KeyError as error:
        raise ValueError(
            f"{evaluation.folder / FILE} has no value {error}, so it is not of this version of "
            "eval; run eval again, which reuses the answers"
        ) from error


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


def _timings(evaluations: Sequence[Evaluation]) -> str:
    """What was timed, of all."""
    said = [(one.name, one.results.get("timing")) for one in evaluations]
    return "; ".join(f"{timing} ({name})" for name, timing in said if timing)
