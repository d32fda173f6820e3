"""gradio's slider, with the server's part of it open: the handlers say what is wrong with a number.

gradio's own compares whatever was typed into the box with its bounds: one number too large, or the
empty box on the way to another number, is a failed request in the browser and a stack trace on the
server's log. Nor does it know that an image may have more visual tokens than the first example.
"""

from abc import ABCMeta
from typing import Any

import gradio as gr


class OpenNumber:
    """What the server does with a number, in place of gradio's bounds."""

    def get_block_name(self) -> str:
        """The component that the browser draws."""
        return "slider"

    def preprocess(self, payload: Any) -> Any:
        """What was sent, of any type; `settings.whole_tokens` and `check_budget` judge it."""
        return payload


# An ordinary class statement would let gradio's metaclass write a stub file beside this one.
KeepSlider: Any = ABCMeta.__new__(
    type(gr.Slider), "KeepSlider", (OpenNumber, gr.Slider), {"__module__": __name__}
)
