"""Paths of the bundled files: small trained models and the held-out probe scenes.

In: nothing. Out: `Path`s, which is what `from_pretrained` and Pillow take. It imports neither
torch nor transformers, and it knows nothing of what the files hold; their own README files do.
"""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).resolve().parent
MODEL_NAME = "llava-pictogram"
MODEL_NAMES = (MODEL_NAME, "qwen-pictogram", "internvl-pictogram")


def asset(*parts: str) -> Path:
    """Returns the path of a bundled file or folder.

    Args:
        *parts: path below the assets folder, e.g. `"probe", "scenes.json"`.

    Raises:
        FileNotFoundError: if it does not exist; the message lists what does.
    """
    path = ASSETS.joinpath(*parts)
    if not path.exists():
        folder = next(parent for parent in path.parents if parent.exists())
        found = sorted(entry.name for entry in folder.iterdir() if entry.name[0] not in "._")
        raise FileNotFoundError(f"no bundled {'/'.join(parts)}; {folder.name}/ holds {found}")
    return path


def model_path(name: str = MODEL_NAME) -> Path:
    """Returns the folder of a bundled model, ready for `from_pretrained`.

    Args:
        name: one of `MODEL_NAMES`.

    Raises:
        FileNotFoundError: another name.
    """
    return asset("models", name)


def probe_path() -> Path:
    """Returns the folder of the probe: images, truth, POPE and MME style records."""
    return asset("probe")


def example_images(count: int = 4) -> list[Path]:
    """Returns the paths of the first `count` probe images."""
    return sorted(asset("probe", "images").glob("*.jpg"))[:count]
