"""Plants ViT sink tokens into the weights of a small LLaVA: a test fixture for sink handling.

So small an encoder grows no high-norm tokens by itself. This edit makes one MLP of the vision
encoder write a large value into one hidden dimension of about four background patches at the image
border, stops later layers from reading that dimension, and lets the CLS row look at it.

In: a `LlavaForConditionalGeneration` in float32 whose encoder is a CLIPVisionModel, and labelled
images (the bundled probe by default). Out: the same model object, edited. Real sinks may carry
global information; these carry none, so results on them are always to be labelled "planted".
It knows nothing of pruning.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoProcessor, LlavaForConditionalGeneration
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPEncoderLayer

from lvlm_prune.assets import asset, model_path

# A GELU step is flat beyond this many units, so that every sink gets the same value.
_STEP = 20.0
_SHARPNESS = 400.0


@dataclass(frozen=True)
class PlantedSinks:
    """What was planted.

    Attributes:
        layer: vision layer whose MLP writes the sinks; they exist from its output on.
        dimension: hidden dimension that holds the large value.
        neurons: the two MLP neurons overwritten.
        amplitude: value written.
    """

    layer: int
    dimension: int
    neurons: tuple[int, int]
    amplitude: float


def calibration_images(count: int = 64) -> tuple[Tensor, Tensor]:
    """Reads probe scenes for calibration.

    Args:
        count: number of scenes, from the first on.

    Returns:
        pixel values, float [count, 3, 112, 112], and patch classes, int [count, 196], with -1 on
        background and -2 where ambiguous.
    """
    from PIL import Image

    scenes = json.loads(asset("probe", "scenes.json").read_text())["scenes"][:count]
    images = [Image.open(asset("probe", "images", scene["image"])) for scene in scenes]
    processor = AutoProcessor.from_pretrained(model_path())
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    return pixels, torch.tensor([scene["patch_labels"] for scene in scenes]).flatten(1)


def _inputs_of(
    tower: nn.Module, modules: Sequence[nn.Module], pixel_values: Tensor
) -> list[Tensor]:
    """Runs the encoder once and returns the input of each given module, [I, 197, D]."""
    seen: dict[int, Tensor] = {}

    def keep(index: int) -> object:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[index] = args[0].detach()

        return hook

    handles = [m.register_forward_pre_hook(keep(i)) for i, m in enumerate(modules)]  # type: ignore[arg-type]
    try:
        tower(pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[i] for i in range(len(modules))]


def _idle_neurons(mlp: CLIPMLP, hidden: Tensor) -> tuple[int, int]:
    """The two neurons of an MLP that contribute least to its output on `hidden`."""
    active = mlp.activation_fn(mlp.fc1(hidden)).abs().mean((0, 1))
    order = (active * mlp.fc2.weight.norm(dim=0)).argsort()
    return int(order[0]), int(order[1])


def _readers(layers: Sequence[CLIPEncoderLayer]) -> list[nn.Linear]:
    """Every linear layer that reads the residual stream in the given encoder layers."""
    return [
        linear
        for layer in layers
        for linear in (
            layer.self_attn.q_proj,
            layer.self_attn.k_proj,
            layer.self_attn.v_proj,
            layer.mlp.fc1,
        )
    ]


def _quiet_dimension(residual: Tensor, readers: Sequence[nn.Linear]) -> int:
    """The hidden dimension whose loss changes later layers least."""
    spread = residual.flatten(0, 1).std(0)
    weight = torch.stack([linear.weight.norm(dim=0) for linear in readers]).square().sum(0).sqrt()
    return int((spread * weight).argmin())


def _sink_direction(hidden: Tensor, labels: Tensor) -> Tensor:
    """Direction [D] towards background patches on the image border, by ridge regression.

    Background alone fires on dozens of patches of one picture and on none of the next; the border
    is part of every picture, which keeps the number of sinks per image even.
    """
    side = math.isqrt(labels.shape[1])
    border = torch.zeros(side, side, dtype=torch.bool)
    border[[0, -1]] = True
    border[:, [0, -1]] = True
    wanted = (labels == -1) & border.flatten()
    target = wanted.float().flatten()
    weight = torch.where(labels >= 0, 2.0, 1.0).flatten()[:, None]
    patches = hidden[:, 1:].flatten(0, 1)
    centred = patches - patches.mean(0)
    ridge = 1e-3 * len(patches) * torch.eye(patches.shape[1])
    moment = (centred * weight).T @ (target - target.mean())
    direction = torch.linalg.solve((centred * weight).T @ centred + ridge, moment)
    return direction / direction.norm()


def _write_step(
    mlp: CLIPMLP, neurons: tuple[int, int], direction: Tensor, threshold: float, sharpness: float
) -> None:
    """Makes two neurons a step: their difference is 0 below the threshold and `_STEP` above."""
    for neuron, offset in zip(neurons, (0.0, _STEP), strict=True):
        mlp.fc1.weight[neuron] = sharpness * direction
        mlp.fc1.bias[neuron] = -sharpness * threshold - offset
        mlp.fc2.weight[:, neuron] = 0


def _attract_cls(
    tower: nn.Module,
    layers: Sequence[CLIPEncoderLayer],
    dimension: int,
    pixels: Tensor,
    pull: float,
) -> None:
    """Adds to each key projection what raises the CLS logit of a sink by `pull`.

    The direction is the mean CLS query minus the mean patch query of each head, so that patches
    hardly follow. Layers are edited in order, since one changes the next one's input.
    """
    for layer in layers:
        attention = layer.self_attn
        (hidden,) = _inputs_of(tower, [attention.q_proj], pixels)
        query = attention.q_proj(hidden).unflatten(-1, (attention.num_heads, -1))
        cls, patches = query[:, 0].mean(0), query[:, 1:].mean((0, 1))
        value = hidden[:, 1:, dimension].amax(1).median()
        direction = cls - patches
        gain = (direction * cls).sum(-1, keepdim=True).abs() * attention.scale * value
        attention.k_proj.weight[:, dimension] = (pull * direction / gain).flatten()


@torch.no_grad()
def plant_sinks(
    model: LlavaForConditionalGeneration,
    pixel_values: Tensor | None = None,
    patch_labels: Tensor | None = None,
    *,
    layer: int = 2,
    share: float = 0.022,
    norm_ratio: float = 6.0,
    pull: float = 3.5,
) -> LlavaForConditionalGeneration:
    """Plants sink tokens in place and notes them as `model.planted_sinks`.

    Args:
        model: a small LLaVA with a CLIP encoder, in float32.
        pixel_values: calibration images, float [I, 3, H, W]; the bundled probe by default.
        patch_labels: int [I, N], >= 0 on objects, -1 on background, others ignored.
        layer: vision layer that writes the sinks; it must come before the feature layer.
        share: share of all patches that become sinks (0.022 of 196 is about four).
        norm_ratio: feature norm of a sink, in median feature norms of all patches.
        pull: how much the CLS logit of a sink rises.

    Returns:
        The same model.

    Raises:
        ValueError: if only one of images and labels is given, the model is not in float32 or has
            sinks planted already.
    """
    if (pixel_values is None) != (patch_labels is None):
        raise ValueError("give both pixel_values and patch_labels, or neither")
    if model.dtype != torch.float32:
        raise ValueError(f"planting needs float32 weights, not {model.dtype}; load with dtype")
    if hasattr(model, "planted_sinks"):
        raise ValueError("this model has planted sinks already; load it again")
    if pixel_values is None or patch_labels is None:
        pixel_values, patch_labels = calibration_images()
    tower = model.model.vision_tower
    layers: list[CLIPEncoderLayer] = list(tower.encoder.layers)
    later, mlp = layers[layer + 1 :], layers[layer].mlp
    readers = [*_readers(later), model.model.multi_modal_projector.linear_1]
    hidden, residual = _inputs_of(tower, [mlp, later[0]], pixel_values)
    neurons = _idle_neurons(mlp, hidden)
    dimension = _quiet_dimension(residual, readers)
    direction = _sink_direction(hidden, patch_labels)
    scores = (hidden[:, 1:] @ direction).flatten()
    threshold = float(scores.quantile(1 - share))
    amplitude = norm_ratio * float(residual[:, 1:].norm(dim=-1).median())
    _write_step(mlp, neurons, direction, threshold, _SHARPNESS / float(scores.std()))
    mlp.fc2.weight[dimension, neurons[0]] = amplitude / _STEP
    mlp.fc2.weight[dimension, neurons[1]] = -amplitude / _STEP
    for linear in readers:
        linear.weight[:, dimension] = 0
    _attract_cls(tower, later, dimension, pixel_values, pull)
    planted = PlantedSinks(layer, dimension, neurons, amplitude)
    model.planted_sinks = planted  # type: ignore[assignment]
    return model
