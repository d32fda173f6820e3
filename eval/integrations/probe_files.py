"""The bundled probe's POPE questions as other harnesses read them, to try them without a network.

In: a folder. Out: a task for lmms-eval (YAML, and parquet with the columns of its POPE data) that
is scored by lmms-eval's own POPE functions, and a `POPE.tsv` for VLMEvalKit.

Usage: python -m lvlm_prune.eval.integrations.probe_files FOLDER [--images N]
"""

import base64
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lvlm_prune.assets import probe_path
from lvlm_prune.eval.probe import Item, load_probe

TASK = "lvlm_prune_probe"
FUNCTIONS = "lmms_eval.tasks.pope.utils.pope"
METRICS = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")


def pope_items(images: int | None = None) -> list[Item]:
    """The probe's lines in POPE's format.

    Args:
        images: use only the first so many images; None uses all.
    """
    return [item for item in load_probe(probe_path(), images).items if item.benchmark == "pope"]


def write_lmms_eval_task(folder: Path, items: Sequence[Item]) -> str:
    """Write a task that `--include_path FOLDER` finds.

    Args:
        folder: made if absent.
        items: questions about probe images.

    Returns:
        The name of the task.

    Raises:
        ImportError: `datasets` is not installed.
    """
    from datasets import Dataset, Features, Image, Value

    texts = ("id", "question_id", "question", "answer", "image_source", "category")
    features = Features({name: Value("string") for name in texts} | {"image": Image()})
    data = folder.resolve() / "parquet" / "data"
    data.mkdir(parents=True, exist_ok=True)
    rows = Dataset.from_list([_row(item) for item in items], features=features)
    rows.to_parquet(data / "test-00000-of-00001.parquet")
    (folder / f"{TASK}.yaml").write_text(_task(data.parent), encoding="utf-8")
    return TASK


def write_vlmevalkit_table(folder: Path, items: Sequence[Item]) -> Path:
    """Write `POPE.tsv`; lines that several splits share are one line there.

    Args:
        folder: made if absent; VLMEvalKit looks in the folder that the variable `LMUData` names.
        items: questions about probe images.
    """
    splits: dict[tuple[str, str, str], list[str]] = {}
    for item in items:
        splits.setdefault((_name(item), item.question, item.label), []).append(item.split)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "POPE.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(("index", "image", "question", "answer", "category"))
        for index, ((image, question, label), names) in enumerate(splits.items()):
            pixels = base64.b64encode(_image(image)).decode()
            # A split may ask the same question about the same image twice.
            category = ",".join(dict.fromkeys(names))
            table.writerow((index, pixels, question, label.capitalize(), category))
    return path


def _row(item: Item) -> dict[str, Any]:
    """One line of lmms-eval's POPE data."""
    return {
        "id": item.id,
        "question_id": item.id.rpartition("/")[2],
        "question": item.question,
        "answer": item.label,
        "image_source": Path(_name(item)).stem,
        "image": {"bytes": _image(_name(item)), "path": item.image},
        "category": item.split,
    }


def _name(item: Item) -> str:
    """The file name of a question's image."""
    if item.image is None:
        raise ValueError(f"{item.id} has no image; both harnesses ask about images alone")
    return item.image


def _image(name: str) -> bytes:
    """The file of a probe image."""
    return (probe_path() / "images" / name).read_bytes()


def _task(data: Path) -> str:
    """The YAML of the task: POPE's, on these files, with questions as they are."""
    metrics = "".join(
        f"  - metric: pope_{name}\n"
        f"    aggregation: !function {FUNCTIONS}_aggregate_{name}\n"
        "    higher_is_better: true\n"
        for name in METRICS
    )
    return (
        f'task: {TASK}\ndataset_path: "{data}"\ntest_split: test\noutput_type: generate_until\n'
        f"doc_to_visual: !function {FUNCTIONS}_doc_to_visual\n"
        f"doc_to_text: !function {FUNCTIONS}_doc_to_text\n"
        "doc_to_target: answer\n"
        "generation_kwargs:\n  max_new_tokens: 4\n  temperature: 0\n  do_sample: false\n"
        f"process_results: !function {FUNCTIONS}_process_results\n"
        f"metric_list:\n{metrics}"
        'lmms_eval_specific_kwargs:\n  default:\n    pre_prompt: ""\n    post_prompt: ""\n'
        "metadata:\n  - version: 1.0\n"
    )


def main(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    images: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
) -> None:
    """Write the probe for lmms-eval (FOLDER) and VLMEvalKit (FOLDER/POPE.tsv)."""
    items = pope_items(images)
    table = write_vlmevalkit_table(folder, items)
    task = write_lmms_eval_task(folder, items)
    typer.echo(f"{len(items)} questions: --include_path {folder} --tasks {task}; {table}")


if __name__ == "__main__":
    typer.run(main)
