"""Tokens that a cache must not quantise or evict, and a cache layer that keeps them exact.

In: masks `[B, L]` of what is known about a prompt's tokens. Out: a mask of the exempt ones: LLM
sinks, whose outlying keys and values spoil the scale of a quantised group (KVSink, RotateKV), the
first text positions, which attention always flows to (arXiv 2309.17453), and ViT sinks if they are
given. Columns are those of the cache: after pruning bring a mask of the original prompt there with
`plan.gather(mask, fill=False)`. An evicting cache reads the mask as it is. For transformers'
quantised caches there is `exempt_cache`:

    rule = calibrate(model, tokenizer).rule()
    layer = rule.first_layer
    real = inputs["attention_mask"].bool()
    visual = inputs["input_ids"] == model.config.image_token_id
    hidden = model(**inputs, output_hidden_states=True).hidden_states[layer]
    exempt = exempt_mask(real, visual, rule.marks(hidden, visual, real, layer))
    cache = exempt_cache(model.config, QuantoQuantizedLayer, exempt, nbits=4, q_group_size=64)
    model.generate(**inputs, past_key_values=cache)

One mask holds for all layers. Tokens behind the prompt are never exempt.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, QuantizedLayer

from lvlm_prune.errors import UnsupportedModelError

FIRST = 4  # text positions that StreamingLLM keeps


def exempt_mask(
    real: Tensor,
    visual: Tensor,
    sinks: Tensor | None = None,
    vit_sinks: Tensor | None = None,
    first: int = FIRST,
) -> Tensor:
    """Mark the tokens that are neither quantised nor evicted.

    Args:
        real: `[B, L]` bool, no padding; padding is never exempt.
        visual: `[B, L]` bool, visual tokens.
        sinks: `[B, L]` bool, LLM sinks, or None where they are not known.
        vit_sinks: `[B, L]` bool, ViT sinks, to keep them too.
        first: how many of a prompt's first text tokens are exempt, BOS among them.

    Returns:
        Bool mask, `[B, L]`.

    Raises:
        TypeError: a mask that is not bool.
        ValueError: masks of different shapes, or a negative count.
    """
    given = {"visual": visual, "sinks": sinks, "vit_sinks": vit_sinks}
    for name, mask in {"real": real, **given}.items():
        if mask is not None and mask.dtype != torch.bool:
            raise TypeError(f"{name} is of {mask.dtype}; pass a bool mask")
        if mask is not None and (mask.shape != real.shape or mask.dim() != 2):
            raise ValueError(
                f"{name} is {tuple(mask.shape)} and real is {tuple(real.shape)}; both are [B, L]"
            )
    if first < 0:
        raise ValueError(f"first is {first}; pass the number of text tokens to keep, 0 or more")
    text = real & ~visual
    exempt = text & (text.cumsum(dim=-1) <= first)
    for mask in (sinks, vit_sinks):
        if mask is not None:
            exempt = exempt | mask
    return exempt & real


class ExemptTokens(QuantizedLayer):
    """Keeps the exempt columns of a quantised layer in full precision.

    It stands in front of a layer class that quantises: `class Layer(ExemptTokens, Quanto...)`.
    Exempt columns are stored beside the quantised states, which hold the mean of the others in
    their place, so that outliers do not widen a group's range.

    Attributes:
        exempt: `[B, L]` bool, set before the first update. Beams of a prompt share its row.
    """

    exempt: Tensor

    # Abstract to a type checker; the layer class behind this one does it.
    def _quantize(  # type: ignore[override]
        self, tensor: Tensor, axis: int
    ) -> tuple[Any, Tensor, Tensor]:
        """Split states `[B, H, S, d]` into quantised ones and the exempt columns `[M, H, d]`."""
        columns = self._columns(tensor)
        others = ~columns[:, None, :, None]
        count = others.sum(dim=2, keepdim=True).clamp(min=1)
        mean = (tensor * others).sum(dim=2, keepdim=True) / count
        filled = tensor.where(others, mean).contiguous()
        quantised: Any = super()._quantize(filled, axis)  # type: ignore[safe-super]
        return quantised, tensor.transpose(1, 2)[columns], columns

    def _dequantize(self, stored: tuple[Any, Tensor, Tensor]) -> Tensor:
        """States `[B, H, S, d]`, exact in the exempt columns."""
        quantised, exact, columns = stored
        states = super()._dequantize(quantised).clone()  # type: ignore[safe-super]
        states.transpose(1, 2)[columns] = exact.to(states.dtype)
        return states

    def _columns(self, tensor: Tensor) -> Tensor:
        """The mask for the columns that there are, `[B, S]`, one row for each beam."""
        batch, length = tensor.shape[0], tensor.shape[2]
        prompts = self.exempt.shape[0]
        if batch % prompts:
            raise ValueError(
                f"the cache holds {batch} rows and the exempt mask {prompts}; make a cache for "
                "each batch"
            )
        rows = self.exempt[:, :length].to(tensor.device).repeat_interleave(batch // prompts, dim=0)
        return torch.nn.functional.pad(rows, (0, length - rows.shape[1]))


def exempt_cache(
    config: Any, layer_class: type[QuantizedLayer], exempt: Tensor, **settings: Any
) -> Cache:
    """A quantised cache that keeps exempt tokens exact, for one call of `generate`.

    Args:
        config: of the model.
        layer_class: what quantises, such as transformers' `QuantoQuantizedLayer`.
        exempt: `[B, L]` bool, L columns of the prompt as the LLM gets it.
        **settings: of the layer class, such as `nbits` and `residual_length`.

    Returns:
        A cache to pass as `past_key_values`.

    Raises:
        TypeError: a layer class that does not quantise as `QuantizedLayer` does, or no bool mask.
        UnsupportedModelError: an LLM with layers that do not attend to the whole prompt.
    """
    if not issubclass(layer_class, QuantizedLayer):
        raise TypeError(
            f"{layer_class.__name__} is no QuantizedLayer; pass QuantoQuantizedLayer, "
            "HQQQuantizedLayer or a subclass of your own"
        )
    if exempt.dtype != torch.bool or exempt.dim() != 2:
        raise TypeError(f"exempt is {exempt.dtype} {tuple(exempt.shape)}; pass bool [B, L]")
    plain = DynamicCache(config=config.get_text_config()).layers
    if not all(
        isinstance(layer, DynamicLayer) and not isinstance(layer, DynamicSlidingWindowLayer)
        for layer in plain
    ):
        raise UnsupportedModelError(
            "this LLM has layers with a window or without attention, whose caches cannot be "
            "quantised; leave the cache out"
        )
    kind = type(f"Exempt{layer_class.__name__}", (ExemptTokens, layer_class), {})
    layers = [kind(**settings) for _ in range(config.get_text_config().num_hidden_layers)]
    for layer in layers:
        layer.exempt = exempt
    return Cache(layers=layers)
