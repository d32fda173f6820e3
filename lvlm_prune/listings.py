"""What `lvlm-prune methods` and `lvlm-prune models` print: tables of what the code itself declares.

Out: plain text. Signals come from each method's own request, the models that it runs on from the
checks of `attach`, options and sources from the method. Knows no method and no family by name.
"""

from collections.abc import Mapping, Sequence

from lvlm_prune.adapters import FAMILIES, Adapter
from lvlm_prune.capabilities import (
    attention,
    bound_adapters,
    family_name,
    refused_methods,
    runs_on,
    signals_read,
    stage,
)
from lvlm_prune.catalogue import Candidate, candidates
from lvlm_prune.layers.registry import LAYER_METHODS
from lvlm_prune.listings_inside import layers_table, reweighters_table
from lvlm_prune.methods import METHODS, Method
from lvlm_prune.names import named
from lvlm_prune.reweight.registry import REWEIGHTERS
from lvlm_prune.tables import aligned

METHOD_HEADER = ("method=", "reads", "stage", "runs on")
MODEL_HEADER = (
    "model type",
    "attention",
    "visual token",
    "tiles",
    "videos",
    "positions",
    "not with",
)
METHODS_NOTE = """\
Every method also gets the projected features, the encoder's rows and their norms. Where an encoder
has no CLS token, received attention takes the place of CLS rows. `question`: the choice depends on
the prompt's text. stage: tokens go at the boundary of encoder and LLM, inside the encoder, or as
pixels of the image. `all families`: every row of `lvlm-prune models` but the last."""
MODELS_NOTE = """\
attention: `CLS row` is the CLS token's attention, `received` the attention that a token receives.
visual token: a patch each, or several merged into one, whose signals are means over them.
positions: M-RoPE rows (time, height, width) are kept as they are, as plain counts are.
not with: methods that `attach` refuses there. `lvlm-prune models --all` lists the other classes."""
ALL_NOTE = """\
family: signals of the encoder, every method. features: what this class offers is enough for the
methods that `lvlm-prune methods` marks `all models`; variants are checked at `attach`, and the
shapes of the features at the first image. Encoder-decoder variants are refused."""


def methods_table(name: str | None = None) -> str:
    """The methods before and inside the LLM, or those of one name.

    Raises:
        UnknownMethodError: no such method.
    """
    if name is None:
        return "\n\n".join([boundary_table(METHODS), layers_table(), reweighters_table()])
    named("method", name, {**METHODS, **LAYER_METHODS, **REWEIGHTERS})
    parts = []
    if name in METHODS:
        parts.append(boundary_table({name: METHODS[name]}))
    if name in LAYER_METHODS:
        parts.append(layers_table([name]))
    if name in REWEIGHTERS:
        parts.append(reweighters_table([name]))
    return "\n\n".join(parts)


def boundary_table(chosen: Mapping[str, Method]) -> str:
    """Methods before the LLM: what they read, where they run, options and source."""
    rows = [(key, signals_read(one), stage(one), runs_on(one)) for key, one in chosen.items()]
    header, *lines = aligned([METHOD_HEADER, *rows])
    text = [header]
    for line, method in zip(lines, chosen.values(), strict=True):
        text += [line, *(f"    {detail}" for detail in _details(method))]
    return "\n".join([*text, "", METHODS_NOTE])


def _details(method: Method) -> list[str]:
    """Summary, options and source of a method."""
    options = ", ".join(f"{key}={value}" for key, value in method.options.items())
    return [method.summary, method.source + (f"; options: {options}" if options else "")]


def models_table() -> str:
    """The families by model type, and what holds for models of no family."""
    rows = [(name, *_facts(adapter)) for name, adapter in bound_adapters().items()]
    refused = _few(refused_methods(None))
    rows.append(("any other", "none", "as it comes", "-", "-", "its own", refused))
    covered = [f"{family_name(family)}: {family.covers}" for family in FAMILIES]
    return "\n".join([*aligned([MODEL_HEADER, *rows]), "", *covered, "", MODELS_NOTE])


def _facts(adapter: Adapter) -> tuple[str, ...]:
    """One line of the table of models."""
    return (
        attention(adapter),
        "a patch" if adapter.shape.per_token else "2x2 patches",
        "yes" if adapter.tiles else "-",
        "yes" if "video" in adapter.pixels else "-",
        "count" if adapter.counts_positions else "M-RoPE",
        _few(refused_methods(adapter)),
    )


def _few(names: Sequence[str]) -> str:
    """Names of methods; all who read attention would be a long list."""
    if len(names) <= 3:
        return ", ".join(names) or "-"
    return "methods that are not `all models`"


def classes_table() -> str:
    """Every class of the installed transformers that takes encoder outputs."""
    types = {model_type for family in FAMILIES for model_type in family.model_types}
    found = candidates()
    rows = [(one.name, one.model_type, _how(one, types)) for one in found]
    ways = [way for *_, way in rows]
    count = (
        f"{len(rows)} classes accept mm_encoder_outputs: {ways.count('family')} in a family, "
        f"{ways.count('features')} by features, "
        f"{len(rows) - ways.count('family') - ways.count('features')} not"
    )
    return "\n".join([*aligned([("class", "model type", "pruned by"), *rows]), "", count, ALL_NOTE])


def _how(one: Candidate, family_types: set[str]) -> str:
    """By what a class is pruned, or why it is not."""
    if one.model_type in family_types:
        return "family"
    return "features" if one.reason is None else f"- ({one.reason})"
