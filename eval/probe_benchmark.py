"""The bundled probe as a benchmark: POPE's questions, MME's pairs, and captions.

In: the probe folder. Out: a `Benchmark` whose lines are scored by three rules, `pope`, `mme` and
`caption`. Captions are loaded only if they are asked for, since they take ten times as long.
"""

from pathlib import Path

from lvlm_prune.eval.benchmark import Benchmark, Scoring
from lvlm_prune.eval.data_version import file_versions
from lvlm_prune.eval.probe import MME_TASKS, POPE_SPLITS, load_probe

KEYS = ("pope", "mme", "caption")
QUESTIONS = ("pope", "mme")
LONGEST = {"pope": 4, "mme": 4, "caption": 48}  # new tokens; a caption takes about 25


def load(data: Path, subset: str | None = None, images: Path | None = None) -> Benchmark:
    """Read the probe.

    Args:
        data: the probe folder, `lvlm_prune.assets.probe_path()`.
        subset: `pope`, `mme`, `caption`, splits or tasks, separated by commas, or `all`; None is
            `pope,mme`.
        images: folder of the images; None is `images` in the probe folder.

    Raises:
        ValueError: an unknown subset, or broken files.
        FileNotFoundError: a file of the probe is absent.
    """
    names = _names(subset)
    probe = load_probe(data)
    items = [item for item in probe.items if {item.benchmark, item.split} & names]
    if "caption" in names:
        from lvlm_prune.eval.caption import caption_items

        items += caption_items(probe.images)
    keys = [key for key in KEYS if any(item.benchmark == key for item in items)]
    read = [data / f"pope_{split}.jsonl" for split in POPE_SPLITS]
    read += [data / "mme" / f"{task}.txt" for task in MME_TASKS]
    if "caption" in keys:
        read.append(data / "scenes.json")
    folder = images or probe.folder
    asked = subset or ",".join(QUESTIONS)
    return Benchmark(
        name="probe",
        items=tuple(items),
        files={name: folder / name for name in probe.images},
        scorings={key: _scoring(key, data) for key in keys},
        longest=LONGEST,
        version={**file_versions(read, data), "subset": asked},
        source=f"the probe's {asked} ({len(items)} lines on {len(probe.images)} drawn scenes)",
        # The ids of questions and captions differ; scenes.json is read by the captions' score.
        growing=frozenset({"limit", "subset", "scenes.json"}),
    )


def _names(subset: str | None) -> set[str]:
    """Keys, splits and tasks that a subset names."""
    if subset is None:
        return set(QUESTIONS)
    if subset.strip().lower() == "all":
        return set(KEYS)
    names = {name.strip() for name in subset.split(",")}
    allowed = (*KEYS, *POPE_SPLITS, *MME_TASKS)
    if unknown := sorted(names.difference(allowed)):
        raise ValueError(
            f"no subset {', '.join(unknown)!r} of the probe; there are all, {', '.join(allowed)}"
        )
    return names


def _scoring(key: str, data: Path) -> Scoring:
    """The scoring rule of one kind of lines."""
    if key == "pope":
        from lvlm_prune.eval.pope import SCORING

        return SCORING
    if key == "mme":
        from lvlm_prune.eval.mme import SCORING as MME

        return MME
    from lvlm_prune.eval.caption import caption_scoring, load_scenes

    return caption_scoring(load_scenes(data))
