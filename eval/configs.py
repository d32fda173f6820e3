"""The runs of a grid as configs: each method at each budget with each ViT sink policy.

In: names, budgets and policies. Out: configs, checked against one model. Names that a user listed
must all run on the model; with `all`, those that cannot are left out and named.
"""

from collections.abc import Sequence

from torch import nn

from lvlm_prune.boundary import BoundaryStage
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import MissingSignalError
from lvlm_prune.methods import METHODS
from lvlm_prune.requirements import ORDINARY

CONTROLS = tuple(name for name, method in METHODS.items() if method.summary.startswith("control:"))


def grid_configs(
    methods: Sequence[str],
    keeps: Sequence[int | float],
    sinks: Sequence[str] = ("ignore",),
    seed: int = 0,
    per: str = "image",
    order: str = "raster",
) -> list[PruneConfig]:
    """One config for each method, budget and sink policy.

    Args:
        methods: method names; those that drop nothing are the baseline already and are left out.
        keeps: budgets.
        sinks: ViT sink policies; a method that cannot follow one goes without it.
        seed: seed of methods that draw.
        per: what a budget counts, `image` or `tile`.
        order: `raster` or `sinks_first`.

    Raises:
        ValueError: a policy that none of the methods can follow.
    """
    named = [name for name in methods if METHODS[name].drops]
    for policy in sinks:
        if named and not any(follows(name, policy) for name in named):
            raise ValueError(
                f"sinks={policy!r} would do nothing: none of {', '.join(named)} can follow it; add "
                "a method that can, such as 'cls', or leave it out"
            )
    return [
        PruneConfig(method=name, keep=keep, sinks=policy, seed=seed, per=per, order=order)
        for name in dict.fromkeys(methods)
        if METHODS[name].drops
        for policy in dict.fromkeys(one if follows(name, one) else "ignore" for one in sinks)
        for keep in dict.fromkeys(keeps)
    ]


def follows(name: str, policy: str) -> bool:
    """Whether a method can follow a ViT sink policy."""
    method = METHODS[name]
    if policy == "query":
        request = method.request(ORDINARY, method.complete({}))
        return bool(request.cls_layers or request.received_layers)
    return policy == "ignore" or method.ranks


def runnable(
    model: nn.Module, configs: Sequence[PruneConfig]
) -> tuple[list[PruneConfig], dict[str, str]]:
    """The configs that a model can run.

    Args:
        model: a transformers model.
        configs: the configs of all methods.

    Returns:
        Those configs, and for each method that was left out why.

    Raises:
        MissingSignalError: the model can run none of them.
    """
    found, why = [], {}
    for config in configs:
        try:
            BoundaryStage(model, config)
        except MissingSignalError as error:
            why[config.method] = str(error)
        else:
            found.append(config)
    if why and not found:
        raise MissingSignalError(next(iter(why.values())))
    return found, why
