"""Check a built wheel: its content, and that it runs in a folder of its own.

Usage: python tests/check_wheel.py FOLDER_WITH_ONE_WHEEL
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NEEDED = (
    "lvlm_prune/py.typed",
    "lvlm_prune/methods/cls.py",
    "lvlm_prune/adapters/qwen_vl.py",
    "lvlm_prune/eval/speed.py",
    "lvlm_prune/eval/chair_lemmas.json",
    "lvlm_prune/eval/integrations/lmms_eval.py",
    "lvlm_prune/assets/plant_sinks.py",
    "lvlm_prune/assets/models/llava-pictogram/model.safetensors",
    "lvlm_prune/assets/models/qwen-pictogram/model.safetensors",
    "lvlm_prune/assets/models/internvl-pictogram/model.safetensors",
    "lvlm_prune/assets/probe/pope_random.jsonl",
    "lvlm_prune/assets/demo/mountains.jpg",
    "lvlm_prune/demo/page.css",
)
PROGRAM = """
from lvlm_prune.assets import MODEL_NAMES, model_path, probe_path
from lvlm_prune.loading import load
import lvlm_prune.eval.evaluate, lvlm_prune.eval.speed, lvlm_prune.show
import lvlm_prune.eval.chair, lvlm_prune.eval.score
from lvlm_prune.methods import METHODS
for name in MODEL_NAMES:
    assert (model_path(name) / "model.safetensors").is_file()
    load(name)
assert (probe_path() / "pope_random.jsonl").is_file()
assert len(METHODS) >= 22
"""


def check(folder: Path) -> str:
    """Return one line about the wheel, or raise AssertionError."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        missing = [name for name in NEEDED if name not in names]
        assert not missing, f"missing from the wheel: {missing}"
        strays = [n for n in names if n.endswith(".pyc") or "/build/" in n or n.startswith("tests")]
        assert not strays, f"does not belong into the wheel: {strays[:5]}"
        with tempfile.TemporaryDirectory() as target:
            archive.extractall(target)
            subprocess.run(
                [sys.executable, "-c", f"import sys; sys.path.insert(0, {target!r})\n{PROGRAM}"],
                check=True,
                cwd=target,
            )
    return f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 2**20:.1f} MiB"


if __name__ == "__main__":
    sys.stdout.write(check(Path(sys.argv[1])) + "\n")
