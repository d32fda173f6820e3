"""What `lvlm-prune calibrate` prints of a calibration.

Out: plain text. Published dimensions stand beside the measured ones with their sources, and with
what the measurement says about them.
"""

import math
from typing import Any

from lvlm_prune.calibration import Calibration
from lvlm_prune.known_sinks import known_for, sources


def calibration_text(calibration: Calibration, config: Any) -> str:
    """Several lines about a calibration.

    Args:
        calibration: what was measured.
        config: of the model, for what was published about it.
    """
    layers = f"layers {calibration.first_layer} to {calibration.last_layer}"
    lines = [
        f"model       {calibration.fingerprint}",
        f"outliers    {calibration.outliers} tokens with 3 times the median norm, {layers}",
        *_sinks(calibration),
        *_evidence(calibration),
        *_known(calibration, config),
    ]
    check = calibration.check
    if check is not None:
        counts = f"{check.marked} marked, {check.attended} attended, {check.both} both"
        lines.append(
            f"attention   precision {check.precision:.3f}, recall {check.recall:.3f} ({counts})"
        )
    return "\n".join(lines)


def _sinks(calibration: Calibration) -> list[str]:
    """Dimensions and threshold, or why there are none."""
    if calibration.tau is None:
        if calibration.check is None or calibration.check.reliable:
            return [f"sinks       no separable sinks: {calibration.reason}; the norm rule holds"]
        return [
            "sinks       no reliable sinks: neither rule agrees with attention",
            f"phi         not separable: {calibration.reason}",
        ]
    most = math.sqrt(calibration.width)
    return [
        f"dims        {', '.join(map(str, calibration.dims))}",
        f"tau         {calibration.tau:.2f} of at most {most:.2f}, tau / sqrt(D) = "
        f"{calibration.relative_tau:.3f}",
        f"phi         99 % of ordinary tokens below {calibration.lo:.2f}, "
        f"95 % of outliers above {calibration.hi:.2f}",
    ]


def _evidence(calibration: Calibration) -> list[str]:
    """What was measured of each dimension."""
    count = calibration.last_layer - calibration.first_layer + 1
    return [
        f"evidence    {one.dim}: {one.votes} of {count} layers, {one.share:.1%} of the energy, "
        f"{one.contrast:.1f} times ordinary tokens{' (published)' if one.seed else ''}"
        for one in calibration.evidence
    ]


def _known(calibration: Calibration, config: Any) -> list[str]:
    """What was published about LLMs of this family and width."""
    letters = sources()
    lines = []
    for entry in known_for(config):
        named = "; ".join(letters[letter] for letter in entry.sources)
        agreed = [dim for dim in entry.dims if dim in calibration.dims]
        lines.append(
            f"published   {', '.join(map(str, entry.dims))} for {entry.name} ({named}); "
            f"measured here: {', '.join(map(str, agreed)) or 'none'}"
        )
    return lines
