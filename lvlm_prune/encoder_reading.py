"""What a vision encoder says about the visual tokens of one image.

In: a model's adapter and what its processor made of one image. Out: for every placeholder of the
prompt the norm of its encoder row, whether it is a ViT sink (see `sinks`), and the attention that
it gets: from the CLS token, or from all patches where the encoder has none (as the method `cls`
ranks, arXiv 2412.01818). Tiles that a model encodes one by one stand behind each other. It knows
nothing about the LLM.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvlm_prune.adapters import Adapter, Encoded, ImageGroup
from lvlm_prune.methods.contract import attention_request
from lvlm_prune.signals import SignalRequest
from lvlm_prune.sinks import vit_sinks

CLS, RECEIVED = "CLS row", "received attention"


@dataclass(frozen=True, eq=False)
class EncoderReading:
    """What the encoder says, on the CPU.

    Args:
        norms: L2 norm of the encoder row of each placeholder, `[N]` float32; NaN where no patch
            stands behind it (newline tokens).
        sinks: ViT sinks, `[N]` bool.
        attention: mean over heads of the attention that it gets, `[N]` float32, NaN as above; None
            where nothing is known of the encoder's layers.
        kind: `CLS row` or `received attention`, or None without attention.
        layer: encoder layer of the attention, or None.
    """

    norms: Tensor
    sinks: Tensor
    attention: Tensor | None
    kind: str | None
    layer: int | None


@torch.inference_mode()
def read_encoder(adapter: Adapter, inputs: Mapping[str, Any]) -> EncoderReading:
    """Encode one image and read it.

    Args:
        adapter: of the model.
        inputs: what the model's processor made of one prompt with one image.
    """
    shape = adapter.shape
    request = attention_request(shape, [shape.feature_layer]) if shape.depth else SignalRequest()
    with adapter.taps(request):
        encoded = adapter.encode(inputs, request)
    read = [_read(group, number) for group, number in _in_order(encoded)]
    norms, sinks, attention = (list(one) for one in zip(*read, strict=True))
    known = bool(request.layers)
    return EncoderReading(
        norms=torch.cat(norms),
        sinks=torch.cat(sinks),
        attention=torch.cat(attention) if known else None,
        kind=(CLS if request.cls_layers else RECEIVED) if known else None,
        layer=request.layers[0] if known else None,
    )


def _in_order(encoded: Encoded) -> list[tuple[ImageGroup, int]]:
    """Group and place in it of each image, as the prompt has them."""
    found = {
        image: (group, number)
        for group in encoded.groups
        for number, image in enumerate(group.images)
    }
    return [found[image] for image in range(encoded.count)]


def _read(group: ImageGroup, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Norms, ViT sinks and attention of one image's placeholders, `[n]` each."""
    signals = group.signals
    places = group.placeholders.cpu()

    def spread(values: Tensor, fill: float | bool) -> Tensor:
        values = values.detach().cpu()
        return values.new_full((group.total,), fill).scatter(0, places, values)

    sinks = vit_sinks(signals.norms[[number]])[0]
    attention = torch.full_like(signals.norms[number], torch.nan)
    if signals.cls is not None or signals.received is not None:
        attention = signals.attention[number, 0].float().mean(dim=0)
    norms = spread(signals.norms[number].float(), torch.nan)
    return norms, spread(sinks, False), spread(attention, torch.nan)
