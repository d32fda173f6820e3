"""Session-wide fixtures: tiny models are read-only; a test that changes one takes a copy."""

import sys

import pytest
import torch
from tiny_models import tiny_llava

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def fresh_compiler():
    """Compiled code of one file does not count against the limits of the next."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def llava(request):
    """The tiny LLaVA under both attention implementations."""
    return tiny_llava(request.param)


@pytest.fixture(scope="session")
def llava_sdpa():
    """The tiny LLaVA under SDPA."""
    return tiny_llava()
