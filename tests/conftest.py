"""Session-wide fixtures: tiny models are read-only; a test that changes one takes a copy."""

import pytest
import torch
from tiny_models import tiny_llava

torch.set_num_threads(1)


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def llava(request):
    """The tiny LLaVA under both attention implementations."""
    return tiny_llava(request.param)


@pytest.fixture(scope="session")
def llava_sdpa():
    """The tiny LLaVA under SDPA."""
    return tiny_llava()
