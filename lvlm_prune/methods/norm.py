"""Keep the tokens whose encoder rows are longest, or shortest.

In: L2 norms of the encoder rows, `[I, N]`. Out: the K rows with the largest (`order="high"`) or the
smallest norm. The plainest ranking there is, for any model: it needs neither attention nor pairs of
tokens. It is a reference, not a recommendation: long rows are often ViT sink tokens on background
(arXiv 2309.16588), whose share `sinks="drop"` takes away.
"""

from collections.abc import Mapping
from typing import Any

from lvlm_prune.methods.contract import EncoderShape, Method, Selection
from lvlm_prune.select import top_rows
from lvlm_prune.signals import SignalRequest, Signals

ORDERS = ("high", "low")


def request(shape: EncoderShape, options: Mapping[str, Any]) -> SignalRequest:
    """Nothing beyond the norms that are always there."""
    if options["order"] not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}; got {options['order']!r}")
    return SignalRequest()


def select(signals: Signals, keep: int, **options: Any) -> Selection:
    """Keep the top rows by norm, or by its negative."""
    scores = signals.norms if options["order"] == "high" else -signals.norms
    return Selection(kept=top_rows(scores, keep), scores=scores)


METHOD = Method(
    name="norm",
    summary="longest (or shortest) encoder rows, a plain reference",
    source="norm ranking; what registers are about, arXiv 2309.16588",
    select=select,
    request=request,
    options={"order": "high"},
)
