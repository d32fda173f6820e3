"""Tell the passes of `generate` where the prompt ends.

In: the arguments that the stock `generate` gets, after everything else has changed them. Out: what
it returns. A pass by itself cannot know that guessed tokens of an assistant, or tokens generated
without a cache, stand behind the prompt, or that more chunks of it follow.
"""

import functools
from collections.abc import Callable
from typing import Any

from lvlm_prune.decoder import Decoder
from lvlm_prune.decoder_call import (
    announced_prompt,
    coming_marks,
    whole_conversation,
    whole_prompt,
)
from lvlm_prune.generate_arguments import named_arguments


class PromptAnnouncer:
    """Stands in for the stock `generate` while a stage or a reweighting is attached.

    Args:
        decoder: the model's LLM.
        ended: called when `generate` is over, however it ended: no pass runs any more.
    """

    original: Any

    def __init__(self, decoder: Decoder, ended: Callable[[], None]) -> None:
        functools.update_wrapper(self, type(decoder.model).generate, updated=())
        self.decoder = decoder
        self.ended = ended

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Announce the prompt for as long as `generate` runs."""
        arguments = named_arguments(self.decoder.model, args, kwargs)
        prompt = whole_conversation(arguments, self.decoder.placeholders, self.decoder.depth)
        outermost = whole_prompt.get() is None
        try:
            with announced_prompt(prompt):
                return self.original(*args, **kwargs)
        finally:
            self.ended()
            if outermost:
                coming_marks.set(None)
