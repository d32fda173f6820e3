"""Writes the model card from measured numbers.

In: a model folder with `metrics.json` of measure.py and, for LLaVA, measure_pruning.py. Out: its
README.md. No result in the card comes from anywhere else. It knows nothing of models.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from probe_files import PROBE

TEMPLATE = Path(__file__).parent / "card_template.md"


def percent(share: float) -> str:
    """A share as a percentage with one digit."""
    return f"{100 * share:.1f}"


def task_table(metrics: dict[str, Any]) -> str:
    """Accuracy per task with the blind bound beside it."""
    lines = [
        "| task | questions | accuracy | blind bound | share of yes |",
        "| --- |" + " --: |" * 4,
    ]
    for task, row in metrics["tasks"].items():
        yes = percent(row["yes_ratio"]) if "yes_ratio" in row else ""
        values = f"{percent(row['accuracy'])} | {percent(row['blind_bound'])} | {yes}"
        lines.append(f"| {task} | {row['n']} | {values} |")
    return "\n".join(lines)


def pruning_table(metrics: dict[str, Any]) -> str:
    """POPE mean by ranking, number of tokens and kind of positions."""
    rows = metrics["pruning"]
    lines = [
        "| ranking | tokens | original positions | compacted positions |",
        "| --- | --: | --: | --: |",
    ]
    lines.append(f"| none | 196 | {percent(rows[0]['mean'])} | |")
    for row in rows[1:]:
        if row["positions"] == "original":
            twin = next(
                r
                for r in rows
                if (r["ranking"], r["keep"], r["positions"])
                == (row["ranking"], row["keep"], "compact")
            )
            values = f"{percent(row['mean'])} | {percent(twin['mean'])}"
            lines.append(f"| {row['ranking']} | {row['keep']} | {values} |")
    return "\n".join(lines)


def sink_table(metrics: dict[str, Any]) -> str:
    """Natural and planted sinks side by side."""
    natural, planted = metrics["natural_sinks"], metrics["planted_sinks"]
    plain = {"sinks_per_image", "images_without", "norm_ratio"}
    lines = ["| quantity | as trained | planted |", "| --- | --: | --: |"]
    for name, value in planted.items():
        before = natural.get(name)
        cells = [
            ""
            if v is None
            else (f"{v:.2f}".rstrip("0").rstrip(".") if name in plain else percent(v))
            for v in (before, value)
        ]
        lines.append(f"| {name.replace('_', ' ')} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def parts(kind: str) -> dict[str, str]:
    """The texts of one family by name, from its `card_<family>.md`."""
    text = (Path(__file__).parent / f"card_{kind}.md").read_text()
    marked = re.split(r"^<!-- (\w+) -->\n", text, flags=re.MULTILINE)[1:]
    return {name: body.strip() for name, body in zip(marked[::2], marked[1::2], strict=True)}


def card(name: str, architecture: str, metrics: dict[str, Any]) -> str:
    """Fills the template.

    Args:
        name: name of the model, `<family>-pictogram`.
        architecture: its model class.
        metrics: numbers of measure.py, and of measure_pruning.py where the family has them.
    """
    texts = {"measured": "", "name": name, "class": architecture}
    values = (
        texts
        | parts(name.removesuffix("-pictogram"))
        | {
            "parameters": f"{metrics['parameters'] / 1e6:.2f}",
            "pope_mean": percent(metrics["pope_mean"]),
            "recall_seen": percent(metrics["recall_seen"]),
            "recall_held_out": percent(metrics["recall_held_out"]),
            "n_seen": metrics["n_seen"],
            "n_held_out": metrics["n_held_out"],
            "tasks": task_table(metrics),
            "pruning": pruning_table(metrics) if "pruning" in metrics else "",
            "sinks": sink_table(metrics) if "planted_sinks" in metrics else "",
            "writers": "`measure.py` and `measure_pruning.py`"
            if "pruning" in metrics
            else "`measure.py`",
        }
    )
    text = TEMPLATE.read_text()
    for key, value in values.items():
        text = text.replace("{" + key + "}", str(value))
    return re.sub(r"\n{3,}", "\n\n", text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = PROBE.parent / "models" / "llava-pictogram"
    parser.add_argument("--model", type=Path, default=default)
    folder = parser.parse_args().model.resolve()
    metrics = json.loads((folder / "metrics.json").read_text())
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    (folder / "README.md").write_text(card(folder.name, architecture, metrics))


if __name__ == "__main__":
    main()
