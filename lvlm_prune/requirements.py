"""What a method and a config need of a model, checked once at attach.

In: the model's adapter, the method with its options, and the config. Out: the signals to read, or
an error that says what is missing and what works instead.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lvlm_prune.adapters import Adapter, GenericAdapter
from lvlm_prune.config import PruneConfig
from lvlm_prune.errors import MissingSignalError
from lvlm_prune.methods import METHODS, Method
from lvlm_prune.methods.contract import EncoderShape
from lvlm_prune.signals import SignalRequest

# Any encoder with attention, to ask methods what they would read of it.
ORDINARY = EncoderShape(depth=24, feature_layer=22, has_cls=True)


def reads_attention(method: Method, options: Mapping[str, Any] | None = None) -> bool:
    """Whether a method needs to look inside an encoder that has attention."""
    return bool(method.request(ORDINARY, method.complete(options or {})).layers)


def requested(
    adapter: Adapter, method: Method, options: Mapping[str, Any], config: PruneConfig
) -> SignalRequest:
    """The signals to read: the method's own, and what the sink policy adds."""
    request = method.request(adapter.shape, options)
    if config.sinks == "query":
        layer = adapter.shape.global_layer(adapter.shape.feature_layer)
        request = replace(request, sinks_layer=layer, sinks_ratio=None)
    if config.received_rows is not None:
        request = replace(request, received_rows=config.received_rows)
    return request


def check_method(
    adapter: Adapter,
    method: Method,
    options: Mapping[str, Any],
    config: PruneConfig,
    clip: object | None,
) -> None:
    """Refuse what this model, this method or this config cannot do.

    Raises:
        MissingSignalError: a signal that the model does not have.
        ValueError: settings that do not go together.
    """
    if isinstance(adapter, GenericAdapter) and reads_attention(method, options):
        working = [name for name, other in METHODS.items() if works_on_features(other)]
        raise MissingSignalError(
            f"method {method.name!r} reads the encoder's attention, which is known only for the "
            "families of `lvlm-prune models`; methods that work on features alone: "
            f"{', '.join(working)}"
        )
    name = type(adapter.model).__name__
    if method.encoder_grid is not None and not adapter.resizes:
        raise MissingSignalError(
            f"method {method.name!r} encodes a smaller image, which {name} does not allow; use "
            "'grid' or 'pool'"
        )
    _check_sinks(adapter, method, options, config)
    request = method.request(adapter.shape, options)
    if config.received_rows is not None and not request.received_layers:
        raise ValueError(
            f"received_rows={config.received_rows} has no effect: method {method.name!r} reads no "
            f"received attention of {name}; leave it out"
        )
    if request.clip and clip is None:
        raise MissingSignalError(
            f"method {method.name!r} compares patches with the question by CLIP; pass "
            "attach(..., clip=ClipText(...)), or options={'relevance': 'llm'}"
        )
    if request.clip and not adapter.shape.per_token:
        raise MissingSignalError(
            f"CLIP embeds single patches, but a visual token of {name} is made of several; use "
            "options={'relevance': 'llm'}"
        )


def _check_sinks(
    adapter: Adapter, method: Method, options: Mapping[str, Any], config: PruneConfig
) -> None:
    """Sink policies need a method that ranks, or one that reads attention."""
    if config.sinks in ("keep", "drop", "only") and not method.ranks:
        raise MissingSignalError(
            f"method {method.name!r} ranks no tokens, so sinks={config.sinks!r} "
            "cannot be applied; use sinks='ignore' or a ranking method"
        )
    if config.sinks == "query":
        request = method.request(adapter.shape, options)
        if not (request.cls_layers or request.received_layers):
            raise MissingSignalError(
                f"method {method.name!r} ranks by no attention that sinks='query' could replace; "
                "use sinks='ignore' or a method such as 'cls'"
            )
    if config.order == "sinks_first" and not adapter.shape.per_token:
        raise MissingSignalError(
            f"order='sinks_first' moves single patches, but a visual token of "
            f"{type(adapter.model).__name__} is made of several; use order='raster'"
        )
    if config.positions == "compact" and adapter.counts_positions is False:
        raise ValueError(
            f"positions='compact' is not possible with {type(adapter.model).__name__}, whose "
            "positions are rows and columns (M-RoPE); use positions='original'"
        )


def works_on_features(method: Method) -> bool:
    """Whether a method runs on a model without a family."""
    return not reads_attention(method) and method.encoder_grid is None
