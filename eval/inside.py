"""The runs inside the LLM: each layer stage and each reweighting on each base.

In: the command line's lists and the configs before the LLM. Out: configs, checked against one model
by attaching them. Lists are separated by commas, and so are the cuts of a schedule: a part that
begins with a digit goes on with the schedule before it, so `fastv@2:0.5,pyramiddrop@1:0.5,2:0.25`
is two schedules. `all` names every registered method, `all@1:0.25` gives that schedule to those
with a fixed budget, and `none` names nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lvlm_prune.attachment import attach
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import MissingSignalError, UnsupportedModelError
from lvlm_prune.layers.registry import LAYER_METHODS, layer_method_named
from lvlm_prune.layers.schedule import LayerSchedule, parse_layers
from lvlm_prune.names import entries
from lvlm_prune.reweight.config import ReweightConfig
from lvlm_prune.reweight.registry import REWEIGHTERS, reweighter_named

UNPRUNED = PruneConfig(method="identity", keep=1.0)
DEPTH = 32  # any will do to ask whether a method decides itself


@dataclass(frozen=True)
class Inside:
    """What is run inside the LLM.

    Args:
        layers: schedules.
        reweights: reweightings.
        combine: run each schedule with each reweighting too.
        optional: labels that `all` named, which are left out where a model cannot run them.
    """

    layers: tuple[LayerSchedule, ...] = ()
    reweights: tuple[ReweightConfig, ...] = ()
    combine: bool = False
    optional: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to run."""
        return not self.layers and not self.reweights


def parse_inside(layers: str, reweight: str, combine: bool = False, seed: int = 0) -> Inside:
    """Read the lists of the command line.

    Args:
        layers: such as `fastv@2:0.5,pyramiddrop@1:0.5,2:0.25`, `all`, `all@1:0.25` or `none`.
        reweight: such as `var,var:official_code`, `all` or `none`.
        combine: see `Inside`.
        seed: of methods that draw.

    Raises:
        UnknownMethodError: no such method.
        ValueError: a schedule or preset that cannot be read, an empty part, or nothing to combine.
    """
    schedules: list[LayerSchedule] = []
    reweights: list[ReweightConfig] = []
    optional: set[str] = set()
    for text in split_schedules(layers):
        schedule = parse_layers(text)
        if schedule.method == "all":
            every = [_followed(name, schedule) for name in LAYER_METHODS]
            schedules += every
            optional.update(one.label() for one in every)
        elif schedule.method != "none":
            layer_method_named(schedule.method)
            schedules.append(schedule)
    for text in _parts(reweight, "--reweight"):
        if text == "all":
            reweights += map(ReweightConfig, REWEIGHTERS)
            optional.update(REWEIGHTERS)
        elif text != "none":
            reweights.append(ReweightConfig.of(text))
    if combine and not (schedules and reweights):
        raise ValueError(
            "--combine needs both --layers and --reweight, such as --layers fastv@2:0.5 "
            "--reweight pai"
        )
    return Inside(
        tuple(dict.fromkeys(_seeded_layers(one, seed) for one in schedules)),
        tuple(dict.fromkeys(_seeded_reweight(one, seed) for one in reweights)),
        combine,
        frozenset(optional),
    )


def split_schedules(text: str) -> list[str]:
    """Split a list of schedules; a part that begins with a digit belongs to the one before.

    Raises:
        ValueError: the list begins with a digit, or a part is empty.
    """
    found: list[str] = []
    for part in _parts(text, "--layers"):
        if not part[0].isdigit():
            found.append(part)
        elif found:
            found[-1] += f",{part}"
        else:
            raise ValueError(
                f"{text!r} begins with a cut; write METHOD@LAYER:KEEP, such as fastv@2:0.5"
            )
    return found


def _parts(text: str, option: str) -> list[str]:
    """The parts between commas; none of an empty text."""
    return entries(text, option) if text.strip() else []


def adaptive(name: str) -> bool:
    """Whether a layer method decides itself how many tokens go on."""
    return all(share is None for share in LAYER_METHODS[name].stages(DEPTH).values())


def _followed(name: str, schedule: LayerSchedule) -> LayerSchedule:
    """A method on a schedule, or on its own where it decides itself."""
    return LayerSchedule(name, None if adaptive(name) else schedule.stages)


def _seeded_layers(schedule: LayerSchedule, seed: int) -> LayerSchedule:
    """Give a method that draws the seed of the run."""
    own = LAYER_METHODS[schedule.method].options.get("seed", seed)
    return schedule if own == seed else replace(schedule, options={"seed": seed})


def _seeded_reweight(config: ReweightConfig, seed: int) -> ReweightConfig:
    """Give a reweighter that draws the seed of the run."""
    own = reweighter_named(config.method).options.get("seed", seed)
    return config if own == seed else replace(config, options={"seed": seed})


def inside_configs(bases: Sequence[PruneConfig], inside: Inside) -> list[PruneConfig]:
    """One config for each base and each stage or reweighting, and with `combine` each pair.

    Args:
        bases: configs before the LLM.
        inside: what is run on top of each.
    """
    more: list[dict[str, Any]] = [{"layers": one} for one in inside.layers]
    more += [{"reweight": one} for one in inside.reweights]
    if inside.combine:
        more += [
            {"layers": schedule, "reweight": reweight}
            for schedule in inside.layers
            for reweight in inside.reweights
        ]
    return [replace(base, **one) for base in bases for one in more]


def inside_label(config: PruneConfig) -> str:
    """Name of what a config does inside the LLM."""
    return " + ".join(part.label() for part in (config.layers, config.reweight) if part)


def base_of(config: PruneConfig) -> PruneConfig:
    """The config before the LLM that a run stands on."""
    return replace(config, layers=None, reweight=None)


def runnable_inside(
    model: Any, configs: Sequence[PruneConfig], optional: frozenset[str]
) -> tuple[list[PruneConfig], dict[str, str]]:
    """The configs that a model can run.

    Args:
        model: a transformers model.
        configs: of `inside_configs`.
        optional: labels that may be left out on every base.

    Returns:
        Those configs, and for each that was left out, by base and label, why.

    Raises:
        ValueError: something that was named runs on no base.
    """
    found: list[PruneConfig] = []
    why: dict[str, str] = {}
    refused: dict[str, str] = {}
    for config in configs:
        label = inside_label(config)
        try:
            attach(model, config).detach()
        except (ValueError, UnsupportedModelError, MissingSignalError) as error:
            why[f"{config.method} + {label}"] = refused[label] = str(error)
        else:
            found.append(config)
    ran = {inside_label(config) for config in found}
    for label, reason in refused.items():
        if label not in ran and not optional.issuperset(label.split(" + ")):
            raise ValueError(reason)
    return found, why
