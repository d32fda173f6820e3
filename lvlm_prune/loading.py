"""Load a model and its processor from a folder or the hub, ready to prune; make prompts for it.

In: a name and a device. Out: `Loaded`, with the model in eval mode and a processor that pads on the
left, as batched generation needs. Weights are read from safetensors only. It knows no family; what
can be pruned is the adapters' business.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lvlm_prune.assets import MODEL_NAME, MODEL_NAMES, model_path
from lvlm_prune.processors import load_processor

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Loaded:
    """A model with its processor.

    Args:
        model: the transformers model, in eval mode on its device.
        processor: its processor, padding on the left.
        name: what the user asked for, or the name of the bundled model.
        planted: whether ViT sinks were planted, which every output has to say.
    """

    model: Any
    processor: Any
    name: str
    planted: bool = False

    @property
    def label(self) -> str:
        """Name for tables and pictures."""
        return f"{self.name} (planted sinks)" if self.planted else self.name

    def prompt(self, question: str, image: bool = True) -> str:
        """The chat prompt of a question about one image, up to where the answer begins."""
        content = [{"type": "image"}] if image else []
        content.append({"type": "text", "text": question})
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )

    def inputs(self, images: Sequence[Image.Image], questions: Sequence[str]) -> dict[str, Tensor]:
        """Tensors for `model.generate`, one image and question a row."""
        prompts = [self.prompt(question) for question in questions]
        batch = self.processor(text=prompts, images=list(images), return_tensors="pt", padding=True)
        return {name: value.to(self.model.device) for name, value in batch.items()}

    def text_inputs(self, questions: Sequence[str]) -> dict[str, Tensor]:
        """Tensors for `model.generate` of questions without an image."""
        prompts = [self.prompt(question, image=False) for question in questions]
        batch = self.processor(text=prompts, return_tensors="pt", padding=True)
        return {name: value.to(self.model.device) for name, value in batch.items()}


def load(
    name: str | Path | None = None,
    device: str = "cpu",
    plant: bool = False,
    cards: Sequence[int] | None = None,
) -> Loaded:
    """Load a model and its processor.

    Args:
        name: folder, hub name, or the name of a bundled model (`lvlm_prune.assets.MODEL_NAMES`);
            None is the bundled LLaVA.
        device: torch device, or `auto` for a model that accelerate spreads over devices; on a CPU
            the model runs in float32.
        plant: plant ViT sinks in the bundled LLaVA.
        cards: with `auto`, the GPUs that it may use; None is all of them.

    Raises:
        ValueError: a device that is not there, or sinks to plant in another model.
        OSError: no such folder, missing files, or a hub that cannot be reached.
    """
    target = None if device == "auto" else check_device(device)
    if plant and name not in (None, MODEL_NAME):
        raise ValueError(
            f"sinks can be planted in the bundled {MODEL_NAME} only, not in {str(name)!r}; "
            "leave --model out, or leave --plant-sinks out"
        )
    source = model_source(name)
    model = spread_model(source, cards) if target is None else load_model(source, target)
    processor = _processor(source)
    if plant:
        from lvlm_prune.assets.plant_sinks import plant_sinks

        model = plant_sinks(model)
    label = Path(source).resolve().name if Path(source).is_dir() else str(source)
    return Loaded(model.eval(), processor, label, plant)


def check_device(device: str) -> torch.device:
    """Return the torch device, or say that it is not there."""
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}); "
            "pass cpu, cuda where torch was installed for a GPU, or auto"
        ) from error
    return target


def model_source(name: str | Path | None) -> str:
    """A bundled model's folder, a folder that has a config, or a hub name.

    A folder of the user goes before a bundled model of the same name.
    """
    if name is None:
        return str(model_path())
    folder = Path(name)
    if not folder.exists() and str(name) in MODEL_NAMES:
        return str(model_path(str(name)))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no config.json; pass the folder that save_pretrained wrote"
            )
        return str(folder)
    # A hub name is `owner/name`; anything with more parts or a leading dot is meant as a path.
    if folder.exists() or folder.is_absolute() or str(name)[:1] in ".~" or len(folder.parts) > 2:
        raise FileNotFoundError(f"there is no model folder {str(name)!r}; check the path")
    return str(name)


def load_model(source: str, device: torch.device, language: bool = False) -> Any:
    """Load the weights.

    Args:
        source: folder or hub name.
        device: on a CPU the model runs in float32.
        language: whether it is a plain LLM and no vision-language model.

    Raises:
        OSError: missing files, or a hub that cannot be reached.
        ValueError: a model of another kind.
    """
    dtype: Any = torch.float32 if device.type == "cpu" else "auto"
    return _loaded(source, language, dtype=dtype).to(device)


def spread_model(source: str, cards: Sequence[int] | None = None) -> Any:
    """Load the weights of a model that is too large for one device, with `device_map="auto"`.

    Args:
        source: folder or hub name.
        cards: GPUs that it may use; None is all of them.

    Raises:
        OSError: missing files, or a hub that cannot be reached.
        ValueError: a model of another kind.
    """
    dtype: Any = "auto" if torch.cuda.is_available() else torch.float32
    memory = None if not cards else {card: torch.cuda.mem_get_info(card)[0] for card in cards}
    # transformers reads WORLD_SIZE with device_map="auto" as a wish for tensor parallelism.
    world = os.environ.pop("WORLD_SIZE", None)
    try:
        return _loaded(source, False, dtype=dtype, device_map="auto", max_memory=memory)
    finally:
        if world is not None:
            os.environ["WORLD_SIZE"] = world


def _loaded(source: str, language: bool, **settings: Any) -> Any:
    """Call `from_pretrained`, without its bar and with its errors in one sentence."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging

    loader: Any = AutoModelForCausalLM if language else AutoModelForImageTextToText
    shows_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return loader.from_pretrained(source, use_safetensors=True, **settings)
    except SafetensorError as error:
        raise OSError(
            f"cannot load the model {source!r}: its weights are damaged or incomplete "
            f"({_first_line(error)}); download or save them again"
        ) from error
    except (OSError, ValueError) as error:
        advice = "" if Path(source).is_dir() else "; check the name, or pass a folder"
        raise type(error)(
            f"cannot load the model {source!r}: {_first_line(error).rstrip('.')}{advice}"
        ) from error
    finally:
        if shows_bar:
            logging.enable_progress_bar()


def _processor(source: str) -> Any:
    """Load the processor and let it pad on the left."""
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise FileNotFoundError(
            f"{folder} holds no processor files ({' or '.join(PROCESSOR_FILES)}); "
            "save them beside the model with processor.save_pretrained"
        )
    try:
        processor: Any = load_processor(source)
    except (OSError, ValueError) as error:
        raise type(error)(
            f"cannot load the processor of {source!r}: {_first_line(error)}"
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ValueError(
            f"{source!r} has a {type(processor).__name__} and no processor for images and text; "
            "pass a vision-language model"
        )
    if not processor.chat_template:
        raise ValueError(
            f"the processor of {source!r} has no chat template, so questions cannot be written as "
            "the model was trained; save one as chat_template.jinja beside it, or pass the chat "
            "version of the model"
        )
    processor.tokenizer.padding_side = "left"
    return processor


def _first_line(error: Exception) -> str:
    """The first sentence of a transformers error, which often goes on for a page."""
    return str(error).strip().split("\n")[0]
