"""The packages that are declared are the packages that exist, and nothing heavy loads early."""

import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml needs Python 3.11")

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_declared():
    homes = {"lvlm_prune": ROOT / "lvlm_prune"}
    homes |= {name: ROOT / path for name, path in SETUPTOOLS["package-dir"].items()}
    found = set()
    for name, home in homes.items():
        for marker in home.rglob("__init__.py"):
            found.add(".".join([name, *marker.parent.relative_to(home).parts]))
    assert found == set(SETUPTOOLS["packages"])


def test_every_data_file_is_declared():
    """Whatever stands beside the modules and is none."""
    files = {path.name for path in (ROOT / "lvlm_prune").iterdir() if path.is_file()}
    data = {name for name in files if not name.endswith(".py")}
    assert data == set(SETUPTOOLS["package-data"]["lvlm_prune"])


def test_importing_the_package_loads_no_framework():
    program = (
        "import sys, lvlm_prune, lvlm_prune.cli;"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names_survive_a_second_import():
    program = (
        "from lvlm_prune import attach, prune_inputs, PruneConfig;"
        "import lvlm_prune.attachment;"
        "from lvlm_prune import attach as again;"
        "assert again is attach and callable(attach)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_unknown_names_are_attribute_errors():
    import lvlm_prune

    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = lvlm_prune.prune


METHOD_FILES = {path.stem for path in ROOT.glob("lvlm_prune/methods/*.py")}
NOT_METHODS = {"__init__", "contract", "lattice", "similarity"}


def test_every_method_file_is_registered():
    from lvlm_prune.methods import METHODS

    modules = {method.select.__module__.rpartition(".")[2] for method in METHODS.values()}
    assert modules == METHOD_FILES - NOT_METHODS
