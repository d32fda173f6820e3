"""`lvlm-prune calibrate`: which dimensions and threshold tell a model's LLM sinks."""

from pathlib import Path
from typing import Annotated

import typer

from lvlm_prune.commands.options import DeviceOption


def calibrate(
    model: Annotated[
        str,
        typer.Argument(help="Folder, hub name or bundled model; plain text LLMs too."),
    ],
    out: Annotated[Path, typer.Option(help="Where the calibration goes, as JSON.")] = Path(
        "runs/sinks.json"
    ),
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare the sinks with attention; refuse bad dimensions."),
    ] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Find the dimensions and the threshold that tell an LLM's sinks.

    Four short texts go through the model, no image and no attention weights. Where sinks are not
    separable this way, the file says so and norms are used instead. Published dimensions are
    tested, never trusted.

    --check counts how far the marked tokens are those that draw attention. Dimensions with a
    precision or recall below 0.5 are refused, and nothing is written. Where only norms are left,
    the check is of them: if they do not agree with attention either, the text and the file
    ("reliable": false) say that this LLM has no reliable sinks.

    \b
    Examples:
      lvlm-prune calibrate llava-hf/llava-1.5-7b-hf --check
      lvlm-prune calibrate ./my-llm --out my-llm.json
    """
    from dataclasses import replace

    from lvlm_prune.calibration import calibrate as measured
    from lvlm_prune.calibration_prompts import calibration_prompts
    from lvlm_prune.calibration_report import calibration_text
    from lvlm_prune.language_models import load_language_model
    from lvlm_prune.sink_check import check_sinks

    loaded, tokenizer = load_language_model(model, device)
    calibration = measured(loaded, tokenizer)
    if check:
        prompts = calibration_prompts(loaded, tokenizer)
        found = check_sinks(loaded, calibration.rule(), prompts)
        calibration = replace(calibration, check=found)
    typer.echo(calibration_text(calibration, loaded.config))
    if calibration.check is not None and calibration.separable:
        calibration.check.refuse_unreliable()
    calibration.save(out)
    typer.echo(f"written     {out}")
