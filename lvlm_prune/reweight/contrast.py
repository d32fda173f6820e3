"""Contrasts of two answers' logits: PAI (arXiv 2407.21771) and VCD (arXiv 2311.16922).

Pure functions on next-token logits `[..., V]`; who runs the second branch is not their concern.
`generate` does; a hand-written loop of forward calls gets no contrast unless it calls these itself.
Both cut off tokens that the branch with the image finds implausible: below `log(beta)` + its
maximum the result is -inf. PAI contrasts log-probabilities with those of a text-only prompt, VCD
raw logits with those of a noised image. gamma = 1 and alpha = 0 leave the image's own values above
the cut-off. VCD works with greedy decoding here; the released code only samples. In ILVAD's table
VCD changes greedy LLaVA-1.5-7B little (POPE 84.50 -> 84.74, CHAIR_S 48.6 -> 48.4).
"""

import torch
from torch import Tensor


def pai_contrast(
    image_logits: Tensor, text_logits: Tensor, gamma: float, beta: float = 0.1
) -> Tensor:
    """`gamma (l_image - l_text) + l_text` of log-probabilities, with the cut-off.

    Args:
        image_logits: `[..., V]`, of the prompt with the image.
        text_logits: `[..., V]`, of the prompt without it.
        gamma: 1 for none; the released command line has 1.1.
        beta: share of the highest probability below which a token is cut off.

    Returns:
        `[..., V]` float32, -inf where cut off.
    """
    image = image_logits.float().log_softmax(dim=-1)
    text = text_logits.float().log_softmax(dim=-1)
    text = text.where(text.isfinite(), image)
    return _cut(gamma * (image - text) + text, image, beta)


def vcd_contrast(
    image_logits: Tensor, noised_logits: Tensor, alpha: float = 1.0, beta: float = 0.1
) -> Tensor:
    """`(1 + alpha) l_image - alpha l_noised` of raw logits, with the cut-off.

    Args:
        image_logits: `[..., V]`, of the image.
        noised_logits: `[..., V]`, of the noised image.
        alpha: 0 for none; the released POPE script has 1 (with beta 0.2).
        beta: share of the highest probability below which a token is cut off.

    Returns:
        `[..., V]` float32, -inf where cut off.
    """
    image, noised = image_logits.float(), noised_logits.float()
    noised = noised.where(noised.isfinite(), image)
    return _cut((1 + alpha) * image - alpha * noised, image, beta)


def _cut(contrast: Tensor, image: Tensor, beta: float) -> Tensor:
    """Set tokens that the image's branch finds implausible to -inf."""
    if not 0 < beta <= 1:
        raise ValueError(f"beta={beta} is not allowed; pass a share above 0, up to 1")
    floor = image.amax(dim=-1, keepdim=True) + torch.tensor(beta).log().item()
    return contrast.masked_fill((image < floor) | ~image.isfinite(), -torch.inf)


def diffused(pixels: Tensor, noise: Tensor, step: int) -> Tensor:
    """`sqrt(a) x + sqrt(1 - a) noise` after `step` of 1000 steps of VCD's schedule.

    Args:
        pixels: any shape.
        noise: of the same shape.
        step: 0 to 999.

    Returns:
        Of the same shape and dtype.

    Raises:
        ValueError: no such step.
    """
    if not 0 <= step < 1000:
        raise ValueError(f"step={step} is not a step of the noise schedule; pass 0 to 999")
    rate = torch.linspace(-6, 6, 1000, dtype=torch.float64).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
    kept = float((1 - rate[: step + 1]).prod())
    return (kept**0.5 * pixels.float() + (1 - kept) ** 0.5 * noise.float()).to(pixels.dtype)


def noised(pixels: Tensor, step: int = 500, generator: torch.Generator | None = None) -> Tensor:
    """Pixels under gaussian noise, for VCD's second branch.

    Args:
        pixels: what the processor made of the image, any shape.
        step: 0 to 999, higher is noisier.
        generator: source of the noise; on a CPU generator the noise does not depend on the device.

    Returns:
        Of the same shape and dtype.
    """
    device = pixels.device if generator is None else generator.device
    noise = torch.randn(pixels.shape, generator=generator, device=device)
    return diffused(pixels, noise.to(pixels.device), step)
