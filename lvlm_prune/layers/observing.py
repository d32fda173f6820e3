"""Let a layer method note something of decoder layers while they run.

In: a plan with observed layers. Out: for each of them what the method's `observe` made of the
inputs and outputs of attention and MLP, `[B, T]`, put into the running pass. Nothing of the layers'
states is kept.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lvlm_prune.decoder import Decoder
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.layers.checks import LayerPlan

if TYPE_CHECKING:
    from lvlm_prune.decoder_hooks import DecoderHooks


OBSERVED = "observed"  # place of the values in the running pass


class LayerObserver:
    """Hooks on attention and MLP of the observed layers.

    Args:
        decoder: the LLM.
        plan: of the stage.
    """

    def __init__(self, decoder: Decoder, plan: LayerPlan) -> None:
        self.plan = plan
        self._handles: list[Any] = []
        for layer in plan.observed:
            if getattr(decoder.layers[layer], "mlp", None) is None:
                raise UnsupportedModelError(
                    f"layer method {plan.method.name!r} reads the MLP of decoder layers, and "
                    f"{type(decoder.layers[layer]).__name__} has none called mlp"
                )

    def install(self, hooks: "DecoderHooks") -> None:
        """Begin to observe."""
        for layer in self.plan.observed:
            module = hooks.decoder.layers[layer]
            for part, kind in ((module.self_attn, "attention"), (module.mlp, "ffn")):
                hook = partial(self._note, hooks, layer, kind)
                self._handles.append(part.register_forward_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Undo it."""
        for handle in self._handles:
            handle.remove()

    def _note(
        self,
        hooks: "DecoderHooks",
        layer: int,
        kind: str,
        module: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        """Keep the attention's tensors until the MLP has run, then ask the method."""
        call = hooks.current()
        if call is None or call.length < 2:
            return
        given: Tensor = args[0] if args else kwargs["hidden_states"]
        made: Tensor = output[0] if isinstance(output, tuple) else output
        if kind == "attention":
            call.scratch[("attention", layer)] = given.detach(), made.detach()
            return
        attention = call.scratch.pop(("attention", layer))
        observe = self.plan.method.observe
        if observe is None:
            return
        with torch.no_grad():
            own = call.rows(layer)
            real = call.real.gather(1, own.clamp(min=0)) & (own >= 0) & (own < call.answer)
            before, behind = attention
            values = observe(before, behind, given.detach(), made.detach().view_as(given), real)
        call.scratch.setdefault(OBSERVED, {})[layer] = values
