"""Passes of models that have begun in this thread, and what becomes of those that never end.

torch ends a pass that raises an Exception, but not one that an interrupt breaks off. What such a
pass leaves behind is dropped when its `generate` ends, when the next pass of the model begins, when
its LLM is entered for another call, and when its hooks are removed. Until then a decoder layer that
is called by itself meets it, and a thread that does none of these keeps it. Knows nothing about
what a pass is for.
"""

from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any

from lvlm_prune.decoder_call import DecoderCall
from lvlm_prune.tap import Handler, handling


@dataclass(frozen=True)
class Running:
    """A pass that has begun in this thread.

    Args:
        owner: the hooks of the model that runs.
        call: the pass.
        token: of the handlers that were there before.
        entered: whether it has reached the LLM.
    """

    owner: Any
    call: DecoderCall
    token: Token[Mapping[int, Handler]]
    entered: bool = False


_running: ContextVar[tuple[Running, ...]] = ContextVar("lvlm_prune_running", default=())


def begin(owner: Any, call: DecoderCall, handlers: Mapping[int, Handler]) -> None:
    """A pass begins.

    Args:
        owner: the hooks of the model that runs.
        call: the pass.
        handlers: what runs its attention modules, by their `id`.
    """
    _running.set((*_running.get(), Running(owner, call, handling(handlers))))


def current(owner: Any) -> DecoderCall | None:
    """The call of this thread's pass, or None outside of one."""
    running = _running.get()
    return running[-1].call if running and running[-1].owner is owner else None


def enter(owner: Any, arguments: Mapping[str, Any]) -> None:
    """The LLM is called, by its model or by somebody who uses it alone.

    A pass calls it once, with its own cache and as many tokens as it has.

    Args:
        owner: the hooks of the model.
        arguments: of the LLM, by name.
    """
    call, running = current(owner), _running.get()
    if call is None:
        return
    embeds = arguments.get("inputs_embeds")
    fits = embeds is not None and embeds.shape[:2] == call.visual.shape
    if running[-1].entered or not fits or arguments.get("past_key_values") is not call.cache:
        end(owner)
    else:
        _running.set((*running[:-1], replace(running[-1], entered=True)))


def end(owner: Any) -> DecoderCall | None:
    """All passes of a model are over, in this thread; the last one's call, or None."""
    running = _running.get()
    place = next((place for place, one in enumerate(running) if one.owner is owner), None)
    if place is None:
        return None
    call, token = current(owner), running[place].token
    # A token cannot be reset in a copy of the context that it was made in.
    token.var.set({} if token.old_value is Token.MISSING else token.old_value)
    _running.set(running[:place])
    return call
