"""What the page shows, as JSON-ready numbers for those who want to copy or plot them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lvlm_prune.demo.compare import Compared
from lvlm_prune.demo.results import Answered, Asked, Prefilled
from lvlm_prune.demo.settings import Asking, Settings
from lvlm_prune.report import MIB


def asked_numbers(model: str, asking: Asking, settings: Settings, asked: Asked) -> dict[str, Any]:
    """Both answers, what they cost, and which tokens were kept."""
    sinks = asked.full.sinks
    return {
        "model": model,
        "question": asking.question,
        "settings": asdict(settings),
        "full": _answer(asked.full) | _cost(asked.measured.full),
        "pruned": _answer(asked.pruned) | _cost(asked.measured.pruned),
        "kept": asked.pruned.choice.kept.tolist(),
        "vit_sinks": [] if sinks is None else sinks.nonzero()[:, 0].tolist(),
        "rounds": asked.measured.rounds,
    }


def compared_numbers(rows: Sequence[Compared]) -> list[dict[str, Any]]:
    """One row for each way to prune."""
    return [
        {"label": row.label}
        | ({"refused": row.refusal} if row.answered is None else _answer(row.answered))
        for row in rows
    ]


def _answer(answered: Answered) -> dict[str, Any]:
    """An answer and its probabilities."""
    yes, no = (None, None) if answered.yes_no is None else answered.yes_no
    return {"answer": answered.text, "p_yes": yes, "p_no": no, "visual_tokens": answered.tokens}


def _cost(cost: Prefilled) -> dict[str, Any]:
    """Times and memory."""
    return {
        "prompt_columns": cost.prompt,
        "encode_ms": cost.encode,
        "select_ms": cost.select,
        "prefill_ms": cost.prefill,
        "first_token_ms": cost.first_token,
        "kv_mib": cost.kv_bytes / MIB,
    }
