"""Put the tables and pictures of finished runs into the README, so that none is typed by hand.

In: the folders that `lvlm-prune eval` and `lvlm-prune speed` wrote. Out: README.md with the text
between `<!-- table:NAME -->` and `<!-- end:NAME -->` replaced, and the pictures copied to
assets/pictures/. A run that is absent is an error, not an old table.

Usage: python assets/build/refresh_readme.py runs/probe runs/speed
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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


def refresh(probe: Path, speed: Path) -> None:
    """Rewrite README.md and assets/pictures from two runs."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    text = replaced(text, "probe", section((probe / "table.md").read_text(encoding="utf-8")))
    text = replaced(text, "speed", section((speed / "speed.md").read_text(encoding="utf-8")))
    readme.write_text(text, encoding="utf-8")
    (ROOT / "assets/pictures").mkdir(exist_ok=True)
    for name in PICTURES:
        shutil.copy(probe / name, ROOT / "assets/pictures" / name)


if __name__ == "__main__":
    refresh(Path(sys.argv[1]), Path(sys.argv[2]))
