"""The `inspect` command: what a model does with the visual tokens of one image.

In: an image file, a question and a config. Out: a table on the screen, one picture, and the numbers
as JSON if asked for. Nothing is written before everything was measured.
"""

import json
from pathlib import Path

import typer

from lvlm_prune.calibration import Calibration
from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.inspection_picture import draw_inspection
from lvlm_prune.eval.plot import check_plot_extra
from lvlm_prune.images import load_image
from lvlm_prune.inspection import inspect_prompt
from lvlm_prune.inspection_text import inspection_dict, inspection_text, numbers_line
from lvlm_prune.loading import load
from lvlm_prune.views import views


def show_inspection(
    image: Path,
    question: str,
    model: str | None,
    config: PruneConfig,
    calibration: Path | None,
    plant: bool,
    save: Path,
    numbers: Path | None,
    device: str,
) -> None:
    """Measure, print and draw.

    Args:
        image: image file.
        question: question about it.
        model: folder, hub name or name of a bundled model; None is the bundled LLaVA.
        config: what is kept.
        calibration: file of `lvlm-prune calibrate` for this model; None for the norm rule.
        plant: plant ViT sinks in the bundled LLaVA first.
        save: PNG file to write.
        numbers: JSON file to write, or None.
        device: torch device.

    Raises:
        ImportError: matplotlib is not installed.
        ImageFileError: the image cannot be read.
        WrongCalibrationError: the calibration is of another model.
        ValueError: a setting that does not fit, or a picture file that is no .png.
    """
    check_plot_extra("the picture of an inspection")
    if save.suffix.lower() != ".png":
        raise ValueError(f"--save must name a .png file, got {str(save)!r}")
    picture = load_image(image)
    loaded = load(model, device, plant)
    rule = None if calibration is None else Calibration.load(calibration, loaded.model).rule()
    inputs = loaded.inputs([picture], [question])
    inspection = inspect_prompt(loaded.model, inputs, config, rule)
    typer.echo(f"{loaded.label}: {question}\n{inspection_text(inspection)}")
    rows = views(picture, inputs, inspection.tiles, loaded.processor.image_processor)
    heading = f"{loaded.label} · {image.name} · {question}"
    draw_inspection(inspection, rows, heading, numbers_line(inspection), save)
    typer.echo(f"picture: {save}")
    if numbers is None:
        return
    values = {"model": loaded.label, "image": str(image), "question": question}
    numbers.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**values, **inspection_dict(inspection)}, indent=1)
    numbers.write_text(text + "\n", encoding="utf-8")
    typer.echo(f"numbers: {numbers}")
