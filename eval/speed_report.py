"""What every speed measurement says about itself: command, machine, clock; and where it is written.

In: settings and the device. Out: JSON-ready facts, lines of Markdown, `speed.json` and `speed.md`.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
import typer

from lvlm_prune import __version__

CLOCKS = {"cpu": "CPU time of the process", "wall": "wall clock"}


def clock_for(device: str) -> str:
    """The clock that other programs disturb least: CPU time, unless threads would wait in it."""
    return "cpu" if device == "cpu" and torch.get_num_threads() == 1 else "wall"


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine and how busy it is."""
    on_gpu = device.type == "cuda"
    return {
        "lvlm_prune": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    """Model of the CPU; only Linux tells it in a file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def command(settings: Mapping[str, Any]) -> str:
    """The command line that runs the same again."""
    options = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in settings.items()
        if value is not None
    ]
    return f"`lvlm-prune speed {' '.join(options)}`"


def machine(facts: Mapping[str, Any], clock: str) -> str:
    """Device, versions and clock in two sentences."""
    load = facts["load_average"]
    busy = "" if load is None else f", load average {load[0]:.1f} on {facts['cores']} cores"
    return (
        f"{facts['device']}, threads: {facts['threads']}{busy}; torch {facts['torch']}, "
        f"transformers {facts['transformers']}. {CLOCKS[clock]}"
    )


def markdown_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows, the header first, as an aligned Markdown table: names left, numbers right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = []
    for first, *others in rows:
        numbers = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        texts.append("| " + " | ".join([first.ljust(widths[0]), *numbers]) + " |")
    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:]), ""])
    return "\n".join([texts[0], rule, *texts[1:]])


def write(results: Mapping[str, Any], text: str, out: Path) -> None:
    """Write `speed.json` and `speed.md` into a folder, and show the text."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "speed.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "speed.md").write_text(text + "\n", encoding="utf-8")
    typer.echo(f"{text}\n\nwritten: {out / 'speed.json'}, {out / 'speed.md'}")


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Let torch use this many CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
