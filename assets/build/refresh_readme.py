"""Put the tables and pictures of finished runs into the README, so that none is typed by hand.

In: the folders that `lvlm-prune eval` and `lvlm-prune speed` wrote. Out: README.md with the text
between `<!-- table:NAME -->` and `<!-- end:NAME -->` replaced, and the pictures copied to
assets/images/. A folder that is named and lacks its file is an error, not an old table.

Usage: python assets/build/refresh_readme.py --models runs/models --inside runs/inside
       --pictures runs/probe --speed runs/speed --signals runs/signals
       --selection runs/selection-2880 --reweight-speed runs/reweight-speed
       --layers-speed runs/layers-speed
"""

import argparse
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "models": "table.md",
    "inside": "inside.md",
    "speed": "speed.md",
    "signals": "speed.md",
    "selection": "speed.md",
    "reweight-speed": "speed.md",
    "layers-speed": "speed.md",
}
PICTURES = ("budgets.png", "overlays.png", "accuracy.png")


def section(markdown: str) -> str:
    """A run's Markdown without its title, its headings one level lower for the README."""
    body = re.sub(r"\A# .*\n", "", markdown).strip()
    return re.sub(r"^## ", "### ", body, flags=re.MULTILINE)


def replaced(readme: str, name: str, text: str) -> str:
    """The README with one marked part replaced; both markers must be there."""
    start, end = f"<!-- table:{name} -->", f"<!-- end:{name} -->"
    before, rest = readme.split(start)
    return f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"


def refresh(tables: dict[str, Path], pictures: Path | None) -> None:
    """Rewrite the named tables of README.md, and assets/images.

    Args:
        tables: folder of the run by the table's name.
        pictures: folder of the run with the pictures, or None.
    """
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, folder in tables.items():
        markdown = (folder / TABLES[name]).read_text(encoding="utf-8")
        text = replaced(text, name, section(markdown))
    readme.write_text(text, encoding="utf-8")
    if pictures is not None:
        (ROOT / "assets/images").mkdir(exist_ok=True)
        for name in PICTURES:
            shutil.copy(pictures / name, ROOT / "assets/images" / name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in (*TABLES, "pictures"):
        parser.add_argument(f"--{name}", type=Path, help="folder of a finished run")
    given = {name.replace("_", "-"): value for name, value in vars(parser.parse_args()).items()}
    tables = {name: given[name] for name in TABLES if given[name] is not None}
    refresh(tables, given["pictures"])


if __name__ == "__main__":
    main()
