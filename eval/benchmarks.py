"""Every benchmark by name: what it is, what its folder must hold, and how to load it.

In: a name of the command line, and where the files are. Out: a `Benchmark`. The loaders live in
modules of their own, which are imported when they are asked for. A run on the first images takes
whole images, with all that is scored together, so that MME's pairs, MMVP's pairs and the sets of
HallusionBench stay complete.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from lvlm_prune.assets import probe_path
from lvlm_prune.eval.benchmark import Benchmark, Item


@dataclass(frozen=True)
class Entry:
    """What is known of a benchmark without its files.

    Args:
        name: its name on the command line.
        summary: what it asks, in one line.
        needs: what the file or folder of `--data` must hold: questions; images.
        subsets: values of `--subset`.
        licence: of questions and images.
        loader: `module:function`, which takes data, subset and images.
        images: where the official images come from.
        bundled: whether its files come with the package.
        together: name of the fact whose lines are scored together, besides those of one image.
    """

    name: str
    summary: str
    needs: str
    subsets: str
    licence: str
    loader: str
    images: str
    bundled: bool = False
    together: str | None = None

    @property
    def questions(self) -> str:
        """What of `needs` is about questions and labels, which is all that `score` reads."""
        return self.needs.split("; ")[0]

    def load(self, data: Path, subset: str | None, images: Path | None) -> Benchmark:
        """Read its files."""
        module, function = self.loader.split(":")
        found: Callable[..., Benchmark] = getattr(import_module(module), function)
        return found(data, subset, images)


_ENTRIES = (
    Entry(
        name="probe",
        summary="drawn scenes: yes/no questions like POPE's and MME's, and captions",
        needs="nothing: it is bundled; or another folder with the same files",
        subsets="pope, mme, caption, a split or a task, several with commas; all; pope,mme if none",
        licence="Apache-2.0, questions and images",
        loader="lvlm_prune.eval.probe_benchmark:load",
        images="images/ of the probe",
        bundled=True,
    ),
    Entry(
        name="pope",
        summary="is there such an object? 3 x 3,000 yes/no questions on 500 images",
        needs="question files such as coco_pope_random.json (output/coco of RUCAIBox/POPE), "
        "or one of them; 500 images of COCO val2014 in images/ or --images",
        subsets="coco, aokvqa, gqa, legacy, or one split such as coco/random",
        licence="questions MIT; COCO images under the Flickr terms of each, not redistributable",
        loader="lvlm_prune.eval.pope:load",
        images="COCO val2014 by name (images.cocodataset.org); for gqa, images.zip of GQA "
        "(cs.stanford.edu/people/dorarad/gqa)",
    ),
    Entry(
        name="mme",
        summary="14 tasks, 1,187 images with one yes and one no question each",
        needs="MME_Benchmark_release_version, or the <task>.txt files of the eval tool, or the "
        "parquet files of lmms-lab/MME; images of the text files in --images",
        subsets="hallucination, perception, cognition, or tasks, several with commas",
        licence="no redistribution, no commercial use: bring your own copy",
        loader="lvlm_prune.eval.mme:load",
        images="on request at github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch "
        "Evaluation; the 110 of the hallucination subset are COCO's (images.cocodataset.org)",
    ),
    Entry(
        name="chair",
        summary="objects that a caption makes up, by a table of words",
        needs="JSON {image: [objects]}, or a COCO annotations folder (instances_*.json and "
        "captions_*.json, train and val 2014); images in images/ or --images",
        subsets="a text file of image names or COCO numbers; of a COCO folder also train or val",
        licence="word lists BSD-2-Clause; COCO annotations CC BY 4.0, images as under pope",
        loader="lvlm_prune.eval.chair:load",
        images="COCO by name (images.cocodataset.org)",
    ),
    Entry(
        name="amber",
        summary="existence, attribute and relation questions, and captions, on 1,004 images",
        needs="query_all.json, annotations.json, relation.json and safe_words.txt (data/ of "
        "junyangwang0410/AMBER); AMBER_1.jpg to AMBER_1004.jpg in images/ or --images",
        subsets="discriminative, generative, existence, attribute, relation, state, number, action",
        licence="Apache-2.0",
        loader="lvlm_prune.eval.amber:load",
        images="AMBER.zip, linked from github.com/junyangwang0410/AMBER",
    ),
    Entry(
        name="hallusionbench",
        summary="1,129 yes/no questions in sets, on real and edited figures, read by string match",
        needs="HallusionBench.json of tianyi-lab/HallusionBench; its images as "
        "hallusion_bench/VD/... beside it or in --images",
        subsets="image, text, VD, VS, or categories such as chart, several with commas",
        licence="BSD-3-Clause",
        loader="lvlm_prune.eval.hallusionbench:load",
        images="the archive hallusion_bench, linked from github.com/tianyi-lab/HallusionBench",
        together="set",
    ),
    Entry(
        name="mmvp",
        summary="300 two-way choices on 150 pairs of images that CLIP takes for the same",
        needs="Questions.csv of MMVP/MMVP on the hub; 'MMVP Images'/1.jpg to 300.jpg beside it",
        subsets="original: answers as in the file, without the two pairs that were corrected",
        licence="MIT",
        loader="lvlm_prune.eval.mmvp:load",
        images="'MMVP Images' of huggingface.co/datasets/MMVP/MMVP",
        together="pair",
    ),
    Entry(
        name="do-you-see-me",
        summary="synthetic 2D and 3D figures: count, choose, read letters",
        needs="one folder a dimension with dataset_info.csv and its images "
        "(2D_DoYouSeeMe and 3D_DoYouSeeMe of microsoft/Do-You-See-Me)",
        subsets="2D, 3D, or dimensions (folder names), several with commas",
        licence="code MIT, data CDLA-Permissive-2.0",
        loader="lvlm_prune.eval.do_you_see_me:load",
        images="github.com/microsoft/Do-You-See-Me, in the folders of the dimensions",
    ),
)
BENCHMARKS: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def benchmark_named(name: str) -> Entry:
    """Look a benchmark up.

    Raises:
        ValueError: no benchmark has this name; those that there are stand in the message.
    """
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in BENCHMARKS:
        raise ValueError(
            f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)} (`lvlm-prune benchmarks`)"
        )
    return BENCHMARKS[wanted]


def load_benchmark(
    name: str,
    data: Path | None = None,
    subset: str | None = None,
    images: Path | None = None,
    limit: int | None = None,
) -> Benchmark:
    """Load a benchmark.

    Args:
        name: one of `BENCHMARKS`.
        data: its file or folder; None takes the bundled files, or the hub's.
        subset: a part of it; None takes all.
        images: folder of its images, if not where the loader expects them.
        limit: use only the first images, with all their questions; None uses all.

    Raises:
        ValueError: an unknown name or subset, a limit below 1, or broken files.
        FileNotFoundError: `data` is absent, or lacks a file that must be there.
    """
    entry = benchmark_named(name)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; pass how many images to use, 1 or more")
    if data is None and entry.bundled:
        data = probe_path()
    if data is None:
        from lvlm_prune.eval.hub import load_from_hub

        found = load_from_hub(entry, subset, images)
    elif data.exists():
        found = entry.load(data, subset, images)
    else:
        raise FileNotFoundError(f"{data} is absent; --data of {entry.name} takes: {entry.needs}")
    if subset is not None and "subset" not in found.version:
        found = replace(found, version={**found.version, "subset": subset})
    return found if limit is None else first_images(found, limit, entry.together)


def first_images(benchmark: Benchmark, limit: int, together: str | None = None) -> Benchmark:
    """The lines of the first images.

    Args:
        benchmark: what to shorten.
        limit: how many images; a group is taken whole, so that there may be more.
        together: name of the fact that groups lines; None groups them by image.

    Returns:
        Groups in file order until they hold `limit` images; one without any counts as one image.
        The version says how many were asked for.
    """
    images: dict[str, set[str]] = {}
    for item in benchmark.items:
        own = images.setdefault(_group(item, together), set())
        if item.image is not None:
            own.add(item.image)
    used: set[str] = set()
    count = 0
    for group, own in images.items():
        if count >= limit:
            break
        used.add(group)
        count += max(len(own), 1)
    items = tuple(item for item in benchmark.items if _group(item, together) in used)
    names = {item.image for item in items}
    keys: set[str] = {item.benchmark for item in items}
    return replace(
        benchmark,
        items=items,
        files={name: path for name, path in benchmark.files.items() if name in names},
        scorings=_only(benchmark.scorings, keys),
        version={**benchmark.version, "limit": str(limit)},
        source=f"{benchmark.source.rstrip('.')}; its first {limit} images, whole",
    )


def _group(item: Item, together: str | None) -> str:
    """What a line belongs to."""
    own = item.facts.get(together) if together else item.image
    return item.id if own is None else str(own)


def _only(values: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    """The values of some keys."""
    return {key: value for key, value in values.items() if key in keys}
