"""What `lvlm-prune methods` prints of methods inside the LLM, from what they declare.

Out: plain text: layer methods with their default schedule in an LLM of 32 layers, and reweighters
with the layers and rows that they change there, presets, and what is known of their results.
"""

from collections.abc import Collection, Sequence

from lvlm_prune.layers.contract import LayerMethod
from lvlm_prune.layers.registry import LAYER_METHODS
from lvlm_prune.reweight.contract import Reweighter
from lvlm_prune.reweight.registry import REWEIGHTERS
from lvlm_prune.tables import aligned

DEPTH = 32
LAYERS_NOTE = """\
before layer: share of the visual tokens that entered the LLM which goes on from there, in an LLM of
32 layers. Schedules of several stages are scaled to others, where stages may fall together; the
last of them stays. `auto`: the method decides. Stages of your own: LayerSchedule(NAME, {LAYER:
KEEP}) in Python, NAME@LAYER:KEEP,LAYER:KEEP on the command line, both without KEEP for `auto`."""
REWEIGHT_NOTE = """\
rows: of every text token behind the images, or the last one of each pass; decode rows always.
Off unless asked for. What is known of a method's results is said beside it."""


def layers_table(names: Sequence[str] | None = None) -> str:
    """The layer methods, or some of them."""
    chosen = [LAYER_METHODS[name] for name in names or LAYER_METHODS]
    rows = [("layers=", "reads", "before layer")]
    rows += [(one.name, _reads(one), _stages(one)) for one in chosen]
    header, *lines = aligned(rows)
    text = [header]
    for line, method in zip(lines, chosen, strict=True):
        text += [line, f"    {method.summary}", f"    {method.source}{_options(method)}"]
    return "\n".join([*text, "", LAYERS_NOTE])


def reweighters_table(names: Sequence[str] | None = None) -> str:
    """The reweighters, or some of them."""
    chosen = [REWEIGHTERS[name] for name in names or REWEIGHTERS]
    rows = [("reweight=", "layers", "rows", "presets")]
    rows += [(one.name, _edited(one), _rows(one), ", ".join(one.presets) or "-") for one in chosen]
    header, *lines = aligned(rows)
    text = [header]
    for line, method in zip(lines, chosen, strict=True):
        text += [line, f"    {method.summary}", f"    {method.source}{_options(method)}"]
        text += [f"    known: {method.evidence}"]
    return "\n".join([*text, "", REWEIGHT_NOTE])


def _reads(method: LayerMethod) -> str:
    """What a layer method reads."""
    request = method.request
    parts = {
        "attention of the layer before": request.previous,
        "queries and keys ahead": request.following,
        "embeddings": request.embeddings,
        "attention and MLP outputs": method.observe is not None,
    }
    return ", ".join(name for name, asked in parts.items() if asked) or "hidden states"


def _stages(method: LayerMethod) -> str:
    """The default schedule."""
    stages = method.stages(DEPTH)
    if all(share is None for share in stages.values()):
        return f"auto, {_layers(stages)}"
    return ", ".join(f"{layer}: {share:.3g}" for layer, share in stages.items())


def _edited(method: Reweighter) -> str:
    """The layers that a reweighter changes."""
    layers = method.layers(method.complete({}), DEPTH)
    return _span(layers) if layers else "logits"


def _layers(stages: Collection[int]) -> str:
    """Layers, in few words where they are many."""
    layers = sorted(stages)
    many = len(layers) > 4
    return f"{layers[0]}-{layers[-1]}" if many else ", ".join(str(layer) for layer in layers)


def _span(layers: Collection[int]) -> str:
    """First and last of some layers."""
    return f"{min(layers)}-{max(layers)} of {DEPTH}"


def _rows(method: Reweighter) -> str:
    """The rows that a reweighter changes."""
    if not method.layers(method.complete({}), DEPTH):
        return "-"
    if not method.prefill:
        return "decode"
    return "text" if method.rows == "text" else "last"


def _options(method: LayerMethod | Reweighter) -> str:
    """Options with their defaults."""
    options = ", ".join(f"{key}={value}" for key, value in method.options.items())
    return f"; options: {options}" if options else ""
