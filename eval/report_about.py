"""What was run: model, versions, prompt, generation, data, command; and what was left out.

In: the values of `results.json`. Out: parts of a report.
"""

from collections.abc import Mapping
from typing import Any

from lvlm_prune.eval.report_document import Bullets, Code, Facts, Heading, Part
from lvlm_prune.eval.report_numbers import counted


def about_parts(results: Mapping[str, Any], title: str = "What was run") -> list[Part]:
    """The facts that a reader needs to run it again.

    Args:
        results: values of `results.json`.
        title: heading of the part.
    """
    rows = [("Model", _model(results)), ("Versions", _versions(results))]
    rows.append(("Prompt", f"`{_visible(results.get('prompt'))}`"))
    rows.append(("Generation", _settings(results.get("generation") or {})))
    rows.append(("Device", str(results.get("device"))))
    if results.get("timing"):
        rows.append(("Timing", str(results["timing"])))
    rows.append(("Seed", str(results.get("seed"))))
    for name, about in results["benchmarks"].items():
        rows.append((f"Data: {name}", _data(about)))
    parts: list[Part] = [Heading(2, title), Facts(tuple(rows))]
    if results.get("command"):
        parts.append(Code(str(results["command"])))
    return parts


def _model(results: Mapping[str, Any]) -> str:
    """The model, and whether it was changed."""
    planted = "; ViT sinks planted for a demonstration" if results.get("planted_sinks") else ""
    return f"{results['model']} (fingerprint `{results.get('fingerprint')}`){planted}"


def _versions(results: Mapping[str, Any]) -> str:
    """The packages that decide about answers."""
    names = {"lvlm_prune": "lvlm-prune", "torch": "torch", "transformers": "transformers"}
    return ", ".join(f"{shown} {results.get(name)}" for name, shown in names.items())


def _settings(values: Mapping[str, Any]) -> str:
    """Settings in one line."""
    return ", ".join(f"`{name}={value}`" for name, value in values.items()) or "as the model has it"


def _data(about: Mapping[str, Any]) -> str:
    """What was asked, and from which files."""
    counts = [
        counted(int(about[name]), noun)
        for name, noun in (("lines", "line"), ("prompts", "distinct prompt"), ("images", "image"))
        if about.get(name) is not None
    ]
    broken = about.get("unreadable_images") or []
    if broken:
        images = counted(len(broken), "image")
        counts.append(f"{images} that cannot be read ({', '.join(map(str, broken[:5]))})")
    version = ", ".join(f"{name} `{value}`" for name, value in about["version"].items())
    source = str(about.get("source", "")).rstrip(".")
    return f"{', '.join(counts)}. {source}. Version: {version or 'none'}."


def _visible(text: Any) -> str:
    """A template on one line, its line breaks written out."""
    return str(text).replace("\n", "\\n").replace("`", "'")


def left_out_parts(results: Mapping[str, Any]) -> list[Part]:
    """What was asked for and not run."""
    found = results.get("left_out") or {}
    if not found:
        return []
    texts = tuple(
        f"`{name}`: {', '.join(map(str, why)) if isinstance(why, list) else why}"
        for name, why in found.items()
    )
    return [Heading(2, "Left out"), Bullets(texts)]
