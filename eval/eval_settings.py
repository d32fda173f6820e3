"""What `lvlm-prune eval` was asked for, and where each benchmark's files are.

In: the command line's values. Out: one frozen value, and benchmarks that were loaded and whose
images are all there. It runs nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lvlm_prune.eval.benchmark import Benchmark
from lvlm_prune.eval.benchmarks import benchmark_named, load_benchmark
from lvlm_prune.eval.inside import Inside
from lvlm_prune.eval.missing import check_images
from lvlm_prune.eval.prompt_template import check_template
from lvlm_prune.eval.questions import PLAIN

PROBE = "probe"


@dataclass(frozen=True)
class EvalSettings:
    """What to run.

    Args:
        keeps: budgets.
        models: folders, hub names or names of bundled models; None is the bundled LLaVA.
        methods: names of methods; None is every method that a model can run.
        benchmarks: names of benchmarks.
        data: file or folder of a benchmark, by its name.
        subsets: part of a benchmark, by its name.
        images: folder of a benchmark's images, by its name.
        sinks: ViT sink policies.
        per: what a budget counts, `image` or `tile`.
        order: `raster` or `sinks_first`.
        plant: plant ViT sinks in the bundled LLaVA first.
        pairs: methods that answer the probe's MME pairs too; the unpruned model always does.
        limit: use only the first images.
        batch_size: questions in one batch at first.
        seed: seed of methods that draw and of the bootstrap.
        device: torch device, or `auto` for a model that is spread over devices.
        inside: what is run inside the LLM, on each method and budget; with the method `identity`
            on the unpruned prompt.
        captions: whether the probe's images are captioned too.
        template: what a prompt asks, with `{question}` in it.
        longest: new tokens of an answer at most; None is the benchmark's.
        restart: answer everything anew.
        command: the command line, for the report.
    """

    keeps: Sequence[int | float]
    models: Sequence[str | None] = (None,)
    methods: Sequence[str] | None = None
    benchmarks: Sequence[str] = (PROBE,)
    data: Mapping[str, Path] = field(default_factory=dict)
    subsets: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, Path] = field(default_factory=dict)
    sinks: Sequence[str] = ("ignore",)
    per: str = "image"
    order: str = "raster"
    plant: bool = False
    pairs: Sequence[str] | None = ()
    limit: int | None = None
    batch_size: int = 64
    seed: int = 0
    device: str = "cpu"
    inside: Inside = Inside()
    captions: bool = False
    template: str = PLAIN
    longest: int | None = None
    restart: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        names = [benchmark_named(name).name for name in self.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError(f"a benchmark is named twice: {', '.join(names)}")
        object.__setattr__(self, "benchmarks", tuple(names))
        check_template(self.template)
        if self.captions and PROBE not in names:
            raise ValueError(
                "--captions are of the probe's images; for captions of others name the benchmark "
                "chair"
            )


def by_benchmark(values: Sequence[str], names: Sequence[str], option: str) -> dict[str, str]:
    """Read an option that may name the benchmark that it is for.

    Args:
        values: each `VALUE`, for the only benchmark, or `NAME=VALUE`.
        names: the benchmarks of the run.
        option: its name, for the message.

    Raises:
        ValueError: a value without a name where there are several benchmarks, or two for one.
    """
    found: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not (equals and name in names):
            name, rest = names[0], value
            if len(names) > 1 and equals and name.isidentifier() and "/" not in value.split("=")[0]:
                raise ValueError(
                    f"{option} {value!r} names no benchmark of this run; it has {', '.join(names)}"
                )
            if len(names) > 1:
                raise ValueError(
                    f"{option} {value!r} does not say for which benchmark; write "
                    f"{option} {names[0]}={value}, once for each of {', '.join(names)}"
                )
        if name in found:
            raise ValueError(f"{option} is given twice for {name}: {found[name]!r} and {rest!r}")
        found[name] = rest
    return found


def load_benchmarks(settings: EvalSettings) -> list[Benchmark]:
    """Load all benchmarks of a run, and see that their images are there.

    Raises:
        MissingImagesError: images that are not there, by name.
        ValueError: broken files or an unknown subset.
        FileNotFoundError: question files that are not there.
        ImportError: a package that a scoring rule needs is missing.
    """
    found = []
    for name in settings.benchmarks:
        subset = settings.subsets.get(name)
        if name == PROBE and settings.captions and subset is None:
            subset = "all"
        data, images = settings.data.get(name), settings.images.get(name)
        benchmark = load_benchmark(name, data, subset, images, settings.limit)
        check_images(benchmark)
        for scoring in benchmark.scorings.values():
            scoring.ready()
        found.append(benchmark)
    return found
