"""Load any model whose LLM can be measured: a vision-language model or a plain causal LLM.

In: a folder, a hub name or the name of a bundled model. Out: the model in eval mode and its
tokenizer. What kind it is stands in its config.
"""

from pathlib import Path
from typing import Any

from lvlm_prune.loading import check_device, load, load_model, model_source


def load_language_model(name: str | Path, device: str = "cpu") -> tuple[Any, Any]:
    """Load a model and the tokenizer of its LLM.

    Args:
        name: folder, hub name, or the name of a bundled model.
        device: torch device; on a CPU the model runs in float32.

    Returns:
        The model in eval mode, and its tokenizer.

    Raises:
        ValueError: a device that is not there, or a model of another kind.
        OSError: no such folder, missing files, or a hub that cannot be reached.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    target, source = check_device(device), model_source(name)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise type(error)(f"cannot load the model {source!r}: {first}") from error
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        loaded = load(name, device)
        return loaded.model, loaded.processor.tokenizer
    model = load_model(source, target, language=True).eval()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise type(error)(
            f"cannot load a tokenizer from {source!r}; save it beside the model with "
            "tokenizer.save_pretrained"
        ) from error
    return model, tokenizer
