"""Measure how the LLM sinks of a model are told, once, from text alone; keep it as JSON.

In: any causal LLM, or a vision-language model, whose LLM is then measured. Out: a `Calibration`:
sink dimensions, tau, the layers they hold for and the evidence, bound to the model by a
fingerprint. One forward pass a prompt, no attention weights, no image. Not every LLM has sinks that
phi separates (random weights have none); then tau is None and the norm rule holds. It does not look
at attention; `sink_check` does, and what it found may be kept here too.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from lvlm_prune.calibration_prompts import calibration_prompts
from lvlm_prune.errors import WrongCalibrationError
from lvlm_prune.fingerprint import model_fingerprint
from lvlm_prune.known_sinks import known_for
from lvlm_prune.llm_sinks import SinkRule, check_dims
from lvlm_prune.residual_stream import check_measurable, measured_layers, residual_stream
from lvlm_prune.sink_check import SinkCheck
from lvlm_prune.sink_dimensions import DimensionEvidence, candidates, layer_sample, separate


@dataclass(frozen=True)
class Calibration:
    """How the LLM sinks of one model are told.

    Args:
        fingerprint: of the model, see `fingerprint`.
        width: D.
        dims: sink dimensions, in 0..D-1; empty where none were found.
        tau: threshold of phi, or None where phi does not separate sinks.
        lo: 99 % of ordinary tokens have a phi below; None without dimensions.
        hi: 95 % of outliers have a phi above; None without dimensions.
        first_layer: first layer that was measured.
        last_layer: the last one.
        outliers: how many tokens were outliers, all measured layers together.
        evidence: what was measured of each dimension, refused seeds included.
        check: how the rule that holds agrees with attention; None where nobody looked.

    Raises:
        ValueError: dimensions outside of the width.
    """

    fingerprint: str
    width: int
    dims: tuple[int, ...]
    tau: float | None
    lo: float | None
    hi: float | None
    first_layer: int
    last_layer: int
    outliers: int
    evidence: tuple[DimensionEvidence, ...]
    check: SinkCheck | None = None

    def __post_init__(self) -> None:
        if self.dims:
            check_dims(self.dims, self.width)

    @property
    def separable(self) -> bool:
        """Whether phi tells sinks from other tokens."""
        return self.tau is not None

    @property
    def relative_tau(self) -> float | None:
        """tau as a share of its highest value, sqrt(D); this can be compared between LLMs."""
        return None if self.tau is None else self.tau / math.sqrt(self.width)

    @property
    def reason(self) -> str | None:
        """Why sinks are not separable, or None."""
        if self.separable:
            return None
        if not self.outliers:
            return "no token has 3 times the median norm"
        if not self.dims:
            return "no dimension holds the energy of outlying tokens in enough layers"
        ends = f"{self.lo:.3g}, that of outliers begins at {self.hi:.3g}"
        return f"phi of ordinary tokens reaches {ends}"

    def rule(self, ratio: float = 3.0) -> SinkRule:
        """The rule that marks sinks: phi where it separates, otherwise norms.

        Args:
            ratio: of the norm rule.
        """
        dims = self.dims if self.separable else ()
        return SinkRule(dims, self.tau, ratio, self.first_layer, self.last_layer)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        check = None if self.check is None else self.check.to_dict()
        return {**asdict(self), "check": check}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """The inverse of `to_dict`.

        Raises:
            ValueError: unknown or missing names.
        """
        known = {field.name for field in fields(cls)}
        values = {"check": None, **values}
        if set(values) != known:
            raise ValueError(
                f"a calibration has the names {sorted(known)}, not {sorted(values)}; write it "
                "with `lvlm-prune calibrate`"
            )
        try:
            evidence = tuple(DimensionEvidence(**one) for one in values["evidence"])
            found = values["check"]
            check = None if found is None else SinkCheck.from_dict(found)
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"evidence or check of a calibration cannot be read: {error}; calibrate again"
            ) from error
        dims = tuple(values["dims"])
        return cls(**{**values, "dims": dims, "evidence": evidence, "check": check})

    def save(self, path: str | Path) -> None:
        """Write JSON; folders are made."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, model: Any) -> "Calibration":
        """Read JSON that was written for this model.

        Raises:
            WrongCalibrationError: it was measured on another model.
            ValueError: the file holds no calibration.
            OSError: there is no such file, or it cannot be read.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise type(error)(
                f"calibration {str(path)!r} cannot be read ({reason}); pass the file that "
                "`lvlm-prune calibrate` wrote for this model"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no JSON ({error}); calibrate again") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a {type(values).__name__} and no calibration")
        calibration, own = cls.from_dict(values), model_fingerprint(model)
        if calibration.fingerprint != own:
            raise WrongCalibrationError(
                f"{path} was measured on {calibration.fingerprint}, and this model is {own}; "
                "calibrate this model with `lvlm-prune calibrate`"
            )
        return calibration


@torch.no_grad()
def calibrate(model: Any, tokenizer: Any = None, texts: Sequence[str] | None = None) -> Calibration:
    """Measure the sink dimensions of a model's LLM and their threshold.

    Args:
        model: a transformers model in eval mode.
        tokenizer: its tokenizer; without one, token ids spread over the vocabulary are used.
        texts: instead of the built-in prompts.

    Returns:
        The calibration; `separable` is False where the LLM has no sinks that phi tells.

    Raises:
        QuantizedModelError: the weights are quantised.
        UnsupportedModelError: no causal LLM, or one without a residual stream `[B, T, D]`.
    """
    check_measurable(model)
    prompts = calibration_prompts(model, tokenizer, texts)
    config = model.config.get_text_config()
    layers = measured_layers(config.num_hidden_layers)
    streams = [residual_stream(model, ids) for ids in prompts]
    samples = [layer_sample([stream[layer] for stream in streams]) for layer in layers]
    seeds = [dim for entry in known_for(model.config) for dim in entry.dims]
    evidence = candidates(samples, seeds)
    found = separate(samples, evidence)
    return Calibration(
        fingerprint=model_fingerprint(model),
        width=config.hidden_size,
        dims=found.dims if found else (),
        tau=found.tau if found else None,
        lo=found.lo if found else None,
        hi=found.hi if found else None,
        first_layer=layers[0],
        last_layer=layers[-1],
        outliers=sum(len(sample.outliers) for sample in samples),
        evidence=tuple(evidence),
    )
