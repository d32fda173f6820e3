"""Tell one LLM from another by a short text: config class, depth, width, vocabulary, weights.

In: a model. Out: a text such as `LlamaConfig-30x576-v49152-1c2d3e4f`. The last part is a CRC-32 of
samples of the embedding and of three decoder matrices, taken in bfloat16, so that the same weights
in float32 and bfloat16 are the same LLM. It reads a few thousand numbers, and is no protection
against anyone who wants to deceive.
"""

import zlib
from itertools import chain
from typing import Any

import torch
from torch import Tensor

SAMPLE = 4096  # numbers of each matrix
FEW = 16
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def model_fingerprint(model: Any) -> str:
    """Name the LLM inside a model.

    Args:
        model: a transformers model, with an LLM inside or an LLM itself.

    Raises:
        ValueError: weights that are on the meta device.
    """
    config = model.config.get_text_config()
    matrices = [weight for weight in model.get_decoder().parameters() if weight.dim() > 1]
    chosen = [matrices[0], matrices[len(matrices) // 2], matrices[-1]]
    checksum = 0
    for weight in (model.get_input_embeddings().weight, *chosen):
        checksum = zlib.crc32(_sample(weight.detach()), checksum)
    size = f"{config.num_hidden_layers}x{config.hidden_size}-v{config.vocab_size}"
    return f"{type(config).__name__}-{size}-{checksum:08x}"


def weights_fingerprint(model: Any) -> str:
    """Name a whole model by its class, and a sum and 16 numbers of each of its tensors.

    The sum is of all bits as whole numbers, so it sees a single changed weight; the few numbers see
    an order. The same weights in another dtype are another model here, as their answers may differ.
    Tensors that are kept off the device (on the meta device) are left out.

    Args:
        model: a transformers model.
    """
    checksum = 0
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.device.type != "meta":
            said = f"{name} {_sum(tensor.detach())} ".encode() + _few(tensor.detach())
            checksum = zlib.crc32(said, checksum)
    return f"{type(model).__name__}-{checksum:08x}"


def _sum(tensor: Tensor) -> int:
    """The bits of all numbers, added up as whole numbers on the tensor's own device."""
    integers = INTEGERS.get(tensor.element_size())
    return 0 if integers is None else int(tensor.view(integers).sum(dtype=torch.int64))


def _few(tensor: Tensor) -> bytes:
    """Evenly spaced numbers of any tensor, as they lie in memory."""
    numbers = tensor.flatten()
    few = numbers[:: max(1, len(numbers) // FEW)][:FEW].contiguous()
    return few.view(torch.uint8).cpu().numpy().tobytes()


def _sample(weight: Tensor) -> bytes:
    """Evenly spaced numbers of a matrix."""
    if weight.device.type == "meta":
        raise ValueError(
            "the weights of this model are on the meta device, so it cannot be told from others; "
            "load it without offloading"
        )
    numbers = weight.flatten()
    sample = numbers[:: max(1, len(numbers) // SAMPLE)][:SAMPLE]
    return sample.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes()
