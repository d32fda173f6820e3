"""gradio's image box, with the server's part of it closed: it opens nothing that a client names.

gradio's own decodes an upload before any limit of ours, and fetches an address that a client sends
in place of a path. Here the path of the stored upload goes on as it is, and is decoded by
`uploads.read_upload`.
"""

from abc import ABCMeta
from pathlib import Path
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like

GONE = "The upload is not there any more; upload the image again."
NO_ADDRESS = "Send a file, not an address: the demo fetches nothing."


class ClosedUploads:
    """What the server does with a file that a client names, in place of gradio's ways."""

    def get_block_name(self) -> str:
        """The component that the browser draws."""
        return "image"

    def preprocess(self, payload: Any) -> str | None:
        """The path of the stored upload, which gradio has checked to be in its upload folder."""
        if payload is None:
            return None
        if not payload.path:
            raise gr.Error(NO_ADDRESS, print_exception=False)
        return str(payload.path)

    async def async_move_resource_to_block_cache(
        self, url_or_file_path: str | Path | None
    ) -> str | None:
        """Refuse addresses and uploads that are gone; other files as gradio does."""
        if url_or_file_path is not None:
            if is_http_url_like(str(url_or_file_path)):
                raise gr.Error(NO_ADDRESS, print_exception=False)
            if not Path(url_or_file_path).is_file():
                raise gr.Error(GONE, print_exception=False)
        parent: Any = super()
        return await parent.async_move_resource_to_block_cache(url_or_file_path)


# An ordinary class statement would let gradio's metaclass write a stub file beside this one.
UploadBox: Any = ABCMeta.__new__(
    type(gr.Image), "UploadBox", (ClosedUploads, gr.Image), {"__module__": __name__}
)
