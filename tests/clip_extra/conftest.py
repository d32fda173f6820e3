"""open_clip for these tests; without it they are skipped, and where `make clip` asked they fail.

They run in an environment of their own, because open_clip brings torchvision, whose registry build
does not load beside a CPU torch and then takes transformers down with it. Declaring the operators
it looks for is enough for its Python code, which is all that open_clip's models use.
"""

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

OPERATOR = re.compile(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"\)')


def declare_operators() -> torch.library.Library | None:
    """Declare torchvision's compiled operators where the installed build has none for this torch.

    Returns:
        The library that holds the declarations as long as it lives, or None if none are needed.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")
    registrations = Path(found.origin).with_name("_meta_registrations.py").read_text()
    for operator in OPERATOR.findall(registrations):
        library.define(f"{operator}(Tensor x) -> Tensor")
    return library


DECLARED = declare_operators()


@pytest.fixture(scope="session")
def open_clip():
    """The package, or a skip; with LVLM_PRUNE_CLIP set its absence is an error."""
    if importlib.util.find_spec("open_clip") is None and not os.environ.get("LVLM_PRUNE_CLIP"):
        pytest.skip("open_clip is not installed here; make clip runs these tests")
    return importlib.import_module("open_clip")
