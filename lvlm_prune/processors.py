"""Load the processor of any vision-language model, with or without torchvision.

In: a folder or hub name. Out: its processor. Without torchvision transformers cannot make the video
processor that most newer processors hold, and so refuses to load them at all; here they are loaded
without it, for images and text. It knows nothing of models.
"""

from copy import copy
from functools import cache, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# The slot that stays empty without torchvision.
VIDEO = "video_processor"


def has_torchvision() -> bool:
    """Whether torchvision is installed."""
    return find_spec("torchvision") is not None


def load_processor(source: str | Path) -> Any:
    """Load a processor.

    Without torchvision the image processor is the Pillow one and videos are refused.

    Args:
        source: folder or hub name.

    Raises:
        OSError: no such folder or name, or missing files.
        ValueError: files that describe no processor, or what can be neither folder nor name.
    """
    from transformers import AutoProcessor

    if has_torchvision():
        return AutoProcessor.from_pretrained(source)
    processor_class = _processor_class(source)
    if processor_class is None or VIDEO not in processor_class.get_attributes():
        return AutoProcessor.from_pretrained(source)
    return _load_image_only(processor_class, source)


@cache
def image_only(processor_class: Any) -> Any:
    """Return a processor class that works without its video processor.

    Its objects save and print under the name of `processor_class`.

    Args:
        processor_class: a transformers processor with a video processor among its arguments.
    """

    class ImageOnly(processor_class):
        """The processor for images and text."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            """Accept that there is no video processor."""
            if argument_name == VIDEO and argument is None:
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

        @wraps(processor_class.__call__)
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Process images and text, as the original does."""
            if kwargs.get("videos") is not None or len(args) > 2 and args[2] is not None:
                raise ImportError(
                    f"{processor_class.__name__} needs torchvision for videos; "
                    "pass images, or install the torchvision that fits your torch"
                )
            return super().__call__(*args, **kwargs)

        def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
            """Save the parts that are there."""
            present = copy(self)
            present.__class__ = Present
            del present.video_processor
            return super(ImageOnly, present).save_pretrained(*args, **kwargs)

    class Present(ImageOnly):
        """What is saved, so that transformers does not look for the absent part."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            """All parts but the video processor."""
            return [name for name in processor_class.get_attributes() if name != VIDEO]

    for made in (ImageOnly, Present):
        made.__name__, made.__qualname__ = processor_class.__name__, processor_class.__qualname__
    return ImageOnly


def _processor_class(source: str | Path) -> Any:
    """The processor class that the files name, or None if AutoProcessor has to find it."""
    import transformers
    from transformers import AutoConfig, ProcessorMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    description, _ = ProcessorMixin.get_processor_dict(source)
    name = description.get("processor_class")
    if name is None:
        kind = AutoConfig.from_pretrained(source).model_type
        name = PROCESSOR_MAPPING_NAMES.get(kind)
    return getattr(transformers, name or "", None)


def _load_image_only(processor_class: Any, source: str | Path) -> Any:
    """Load a processor part by part."""
    from transformers import AutoImageProcessor, AutoTokenizer

    description, _ = processor_class.get_processor_dict(source)
    parts = set(processor_class.get_attributes()) | {"processor_class", "auto_map"}
    options = {name: value for name, value in description.items() if name not in parts}
    tokenizer = AutoTokenizer.from_pretrained(source)
    options.setdefault("chat_template", tokenizer.chat_template)
    return image_only(processor_class)(
        image_processor=AutoImageProcessor.from_pretrained(source, backend="pil"),
        tokenizer=tokenizer,
        **options,
    )
