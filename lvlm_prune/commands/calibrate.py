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
        bool, typer.Option("--check", help="Compare the sinks with attention; refuse bad ones.")
    ] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Find the dimensions and the threshold that tell an LLM's sinks.

    Four short texts go through the model, no image and no attention weights. Where sinks are not
    separable this way, the file says so and norms are used instead. Published dimensions are
    tested, never trusted.

    \b
    Examples:
      lvlm-prune calibrate llava-hf/llava-1.5-7b-hf --check
      lvlm-prune calibrate ./my-llm --out my-llm.json
    """
    from lvlm_prune.calibration import calibrate as measured
    from lvlm_prune.calibration_prompts import calibration_prompts
    from lvlm_prune.calibration_report import calibration_text
    from lvlm_prune.language_models import load_language_model
    from lvlm_prune.sink_check import check_sinks

    loaded, tokenizer = load_language_model(model, device)
    calibration = measured(loaded, tokenizer)
    prompts = calibration_prompts(loaded, tokenizer)
    found = check_sinks(loaded, calibration.rule(), prompts) if check else None
    typer.echo(calibration_text(calibration, loaded.config, found))
    if found is not None and calibration.separable:
        found.refuse_unreliable()
    calibration.save(out)
    typer.echo(f"written     {out}")
