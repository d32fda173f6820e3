"""gradio's page, with sentences in place of its own words about values that it does not take.

gradio's refusal of a path spells it out against the server's working folder, and that of a wrong
type speaks of the program's inside. Neither is for whoever sent the value.
"""

from typing import Any

import gradio as gr
from gradio.exceptions import ComponentProcessingError, InvalidPathError

NOT_UPLOADED = "Upload the image first: the demo opens only files that were uploaded to it."
WRONG_TYPE = "One of the values is of the wrong type; /gradio_api/info lists what each one takes."


class ClosedBlocks(gr.Blocks):
    """A page whose refusals hold nothing of the server."""

    async def preprocess_data(self, *values: Any, **named: Any) -> list[Any]:
        """What clients sent, as the handlers take it.

        Raises:
            gr.Error: a file that was not uploaded, or a value of the wrong type, in a sentence.
        """
        try:
            taken: list[Any] = await super().preprocess_data(*values, **named)
        except InvalidPathError:
            raise gr.Error(NOT_UPLOADED, print_exception=False) from None
        except ComponentProcessingError:
            raise gr.Error(WRONG_TYPE, print_exception=False) from None
        return taken
