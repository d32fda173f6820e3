"""LLaVA-1.5: a CLIP vision encoder with a CLS token, a two-layer projector, one row a patch.

Written for transformers' `LlavaForConditionalGeneration`. Visual token i is patch i in raster
order, so a signal of the encoder is a signal of the prompt once the CLS column is gone. An image
has (image_size / patch_size)^2 tokens: 576 for llava-1.5, 24 x 24.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lvlm_prune.adapters.base import Adapter, Encoded, ImageGroup, pixel_fingerprints
from lvlm_prune.attention import cls_row, received_attention
from lvlm_prune.errors import UnsupportedModelError
from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.signals import SignalRequest, Signals
from lvlm_prune.tap import recording


class LlavaAdapter(Adapter):
    """LLaVA-1.5 in the Hugging Face layout."""

    model_type = "llava"
    covers = "LLaVA-1.5 with a CLIP vision encoder"
    vision_layers = "model.vision_tower.encoder.layers"
    attention = "self_attn"
    projector = "model.multi_modal_projector"

    def _check_capabilities(self) -> None:
        """Name the encoder first: another one has its layers elsewhere."""
        vision = self.model.config.vision_config.model_type
        if vision != "clip_vision_model":
            raise UnsupportedModelError(
                f"LLaVA with a {vision!r} encoder is not supported; supported: clip_vision_model"
            )
        super()._check_capabilities()

    def _check_variant(self) -> None:
        """Only patches may be visual tokens."""
        strategy = self.model.config.vision_feature_select_strategy
        if strategy != "default":
            raise UnsupportedModelError(
                f"vision_feature_select_strategy={strategy!r} makes the CLS token a visual token, "
                "which no method here was written for; supported: 'default'"
            )

    def _encoder_shape(self) -> EncoderShape:
        """The layer whose output is `hidden_states[vision_feature_layer]`."""
        depth = self.model.config.vision_config.num_hidden_layers
        # The deepest one, where the rows of several layers are concatenated.
        # hidden_states[0] is the input of layer 0, so hidden_states[k] leaves layer k - 1.
        layer = max(index % (depth + 1) for index in self._feature_layers()) - 1
        return EncoderShape(depth=depth, feature_layer=layer, has_cls=True)

    def _feature_layers(self) -> list[int]:
        """Indices into hidden_states whose rows are projected."""
        layers = self.model.config.vision_feature_layer
        return [layers] if isinstance(layers, int) else list(layers)

    def grid(self) -> tuple[int, int]:
        """Patches of the encoder's square image."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    def encode(
        self,
        inputs: Mapping[str, Any],
        request: SignalRequest,
        encoder_grid: tuple[int, int] | None = None,
    ) -> Encoded:
        """Encode `pixel_values` `[I, 3, height, width]`; see `Adapter.encode`."""
        arguments = self.encoder_arguments(inputs)
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            configured = getattr(self.model.config, name)
            if arguments.get(name, configured) != configured:
                raise ValueError(
                    f"{name}={arguments[name]!r} differs from the model's {configured!r}, which "
                    "pruning was set up for; change it in model.config before attach"
                )
        full = self.grid()
        pixels = arguments["pixel_values"]
        if encoder_grid is not None and encoder_grid != full:
            patch = self.model.config.vision_config.patch_size
            size = (encoder_grid[0] * patch, encoder_grid[1] * patch)
            arguments["pixel_values"] = interpolate(
                pixels.float(), size=size, mode="bicubic", antialias=True
            ).to(pixels.dtype)
            arguments["interpolate_pos_encoding"] = True
        signals: dict[str, Tensor] = {}
        with recording(self._recorders(request, signals)):
            outputs = self.model.base_model.get_image_features(**arguments, return_dict=True)
        hidden = torch.cat([outputs.hidden_states[i] for i in self._feature_layers()], dim=-1)
        if request.fingerprint:
            signals["fingerprint"] = pixel_fingerprints(pixels)
        layers = [signals.pop(f"cls{layer}") for layer in request.cls_layers]
        group = Signals(
            features=torch.stack(list(outputs.pooler_output)),
            hidden=hidden[:, 1:],
            grid=encoder_grid or full,
            prompt_grid=full,
            cls_hidden=hidden[:, 0],
            cls=torch.stack(layers, dim=1) if layers else None,
            **signals,
        )
        return Encoded([ImageGroup(list(range(pixels.shape[0])), group)], type(outputs))

    def _recorders(
        self, request: SignalRequest, signals: dict[str, Tensor]
    ) -> dict[torch.nn.Module, Callable[[Tensor, Tensor, float], None]]:
        """One recorder for each tapped layer; they write into `signals`."""
        return {
            module: partial(_record, signals, request, layer)
            for layer, module in self.attention_modules(request).items()
        }


def _record(
    signals: dict[str, Tensor],
    request: SignalRequest,
    layer: int,
    query: Tensor,
    key: Tensor,
    scale: float,
) -> None:
    """Turn query and key of one layer into the signals that were asked of it."""
    if layer in request.cls_layers:
        signals[f"cls{layer}"] = cls_row(query, key, scale)
    if layer == request.received_layer:
        received = received_attention(query, key, scale, request.received_rows)
        signals["received"] = received[:, 1:]
    if layer == request.keys_layer:
        signals["keys"] = key[:, :, 1:]
