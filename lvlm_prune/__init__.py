"""Prune the visual tokens of a vision-language model with one added line.

The public names are loaded on first use, so that `import lvlm_prune` and `lvlm-prune --help` stay
fast and import neither torch nor transformers.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lvlm_prune.attachment import Attachment, attach, prune_inputs
    from lvlm_prune.calibration import Calibration, calibrate
    from lvlm_prune.clip_text import ClipText
    from lvlm_prune.config import PruneConfig
    from lvlm_prune.layers.report import LayerReport
    from lvlm_prune.layers.schedule import LayerSchedule
    from lvlm_prune.layers.stage import LayerStage
    from lvlm_prune.llm_sinks import SinkRule
    from lvlm_prune.processors import load_processor
    from lvlm_prune.report import PruneReport
    from lvlm_prune.reweight.config import ReweightConfig
    from lvlm_prune.reweight.engine import Reweighting
    from lvlm_prune.splice import Plan

__version__ = version("lvlm-prune")

_HOMES = {
    "Attachment": "lvlm_prune.attachment",
    "attach": "lvlm_prune.attachment",
    "prune_inputs": "lvlm_prune.attachment",
    "Calibration": "lvlm_prune.calibration",
    "calibrate": "lvlm_prune.calibration",
    "ClipText": "lvlm_prune.clip_text",
    "LayerReport": "lvlm_prune.layers.report",
    "LayerSchedule": "lvlm_prune.layers.schedule",
    "LayerStage": "lvlm_prune.layers.stage",
    "SinkRule": "lvlm_prune.llm_sinks",
    "ReweightConfig": "lvlm_prune.reweight.config",
    "Reweighting": "lvlm_prune.reweight.engine",
    "load_processor": "lvlm_prune.processors",
    "PruneConfig": "lvlm_prune.config",
    "PruneReport": "lvlm_prune.report",
    "Plan": "lvlm_prune.splice",
}

__all__ = [
    "Attachment",
    "Calibration",
    "ClipText",
    "LayerReport",
    "LayerSchedule",
    "LayerStage",
    "Plan",
    "PruneConfig",
    "PruneReport",
    "ReweightConfig",
    "Reweighting",
    "SinkRule",
    "__version__",
    "attach",
    "calibrate",
    "load_processor",
    "prune_inputs",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lvlm_prune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
