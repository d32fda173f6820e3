"""The named errors of the project.

Each message states the value, what is allowed, and the next step. Wrong values and types of a
setting are plain ValueError and TypeError; the names here are for what a script may want to catch.
"""


class UnknownMethodError(ValueError):
    """No pruning method has this name."""


class UnsupportedModelError(TypeError):
    """The model is of no supported family, or of a variant that its family cannot prune."""


class MissingSignalError(ValueError):
    """The method needs a signal that this vision encoder does not have."""


class AlreadyAttachedError(RuntimeError):
    """The model already carries an attachment."""


class PlaceholderMismatchError(ValueError):
    """The prompt's placeholder tokens do not match the images that were passed."""


class NothingDroppedError(RuntimeError):
    """Fewer tokens than there are were asked for, yet none was dropped."""


class NonFiniteFeaturesError(ValueError):
    """The encoder gave NaN or infinity for an image, so that nothing can be ranked."""


class BrokenSelectionError(RuntimeError):
    """A method did not keep as many different tokens as it was asked for."""


class NoSinksError(RuntimeError):
    """Only ViT sink tokens were asked for, and an image has none."""


class NoReportError(RuntimeError):
    """The report was read before any call with an image."""


class ImageFileError(ValueError):
    """A file is not an image that can be decoded safely."""


class QuantizedModelError(TypeError):
    """The model's weights are quantised, and what was asked for needs the original ones."""


class WrongCalibrationError(ValueError):
    """A calibration of LLM sinks was measured on another model."""


class UnreliableSinksError(RuntimeError):
    """The tokens that a rule marks as LLM sinks are not those that attention flows to."""
