"""One encoder pass for the signal requests of several readers.

In: two requests. Out: whether one pass can serve both, the request of that pass, and for each
reader the signals that it asked for and no others. Knows nothing about methods or models.
"""

from dataclasses import replace

from lvlm_prune.adapters import Encoded
from lvlm_prune.signals import SignalRequest, Signals


def compatible(one: SignalRequest, other: SignalRequest) -> bool:
    """Whether one encoder pass can serve two requests.

    Any layers can be read together where a signal keeps them apart; of the others a pass has one.
    """
    if one.received_layers and other.received_layers and one.received_rows != other.received_rows:
        return False
    pairs = [
        (one.joint_layer, other.joint_layer),
        (one.keys_layer, other.keys_layer),
        (_sinks_asked(one), _sinks_asked(other)),
    ]
    return all(a == b or a is None or b is None for a, b in pairs)


def _sinks_asked(request: SignalRequest) -> tuple[int, float | None] | None:
    """Layer and ratio of the sinks whose attention is read."""
    return None if request.sinks_layer is None else (request.sinks_layer, request.sinks_ratio)


def merged(one: SignalRequest, other: SignalRequest) -> SignalRequest:
    """The request for the signals of two compatible requests."""
    received = one if one.received_layers else other
    sinks = one if one.sinks_layer is not None else other
    return SignalRequest(
        cls_layers=tuple(sorted({*one.cls_layers, *other.cls_layers})),
        received_layers=tuple(sorted({*one.received_layers, *other.received_layers})),
        received_rows=received.received_rows,
        joint_layer=one.joint_layer if other.joint_layer is None else other.joint_layer,
        keys_layer=one.keys_layer if other.keys_layer is None else other.keys_layer,
        sinks_layer=sinks.sinks_layer,
        sinks_ratio=sinks.sinks_ratio,
        text=one.text or other.text,
        clip=one.clip or other.clip,
        fingerprint=one.fingerprint or other.fingerprint,
    )


def narrowed(encoded: Encoded, have: SignalRequest, want: SignalRequest) -> Encoded:
    """The signals that a method asked for, where more were read."""
    cls = [have.cls_layers.index(layer) for layer in want.cls_layers]
    received = [have.received_layers.index(layer) for layer in want.received_layers]

    def own(signals: Signals) -> Signals:
        return replace(
            signals,
            cls=signals.cls[:, cls] if cls and signals.cls is not None else None,
            received=signals.received[:, received]
            if received and signals.received is not None
            else None,
            joint=None if want.joint_layer is None else signals.joint,
            keys=None if want.keys_layer is None else signals.keys,
            sinks_given=None if want.sinks_layer is None else signals.sinks_given,
            fingerprint=signals.fingerprint if want.fingerprint else None,
        )

    return encoded.with_signals(lambda group: own(group.signals))
