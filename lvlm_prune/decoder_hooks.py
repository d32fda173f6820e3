"""Hooks on a model's LLM that layer stages and reweighting share.

One `DecoderHooks` serves all users of a model: it builds a `DecoderCall` for each pass and shows
the users every decoder layer before it runs and every attention module while it runs. The first
user installs it, the last one removes it; nothing of it is left then.
"""

import inspect
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lvlm_prune import decoder_passes
from lvlm_prune.announcer import PromptAnnouncer
from lvlm_prune.decoder import Decoder
from lvlm_prune.decoder_call import (
    DecoderCall,
    marked,
    text_behind_images,
    whole_prompt,
)
from lvlm_prune.decoder_memory import extended, memory_of
from lvlm_prune.generate_chain import unwrap_generate, wrap_stock_generate
from lvlm_prune.tap import AttentionCall, install_tap, remove_tap

_ATTRIBUTE = "_lvlm_prune_decoder_hooks"
Output = tuple[Tensor, Tensor | None]


class DecoderUser(Protocol):
    """What a layer stage or a reweighting does during a pass."""

    def begin(self, call: DecoderCall) -> None:
        """A pass begins."""

    def before_layer(self, call: DecoderCall, layer: int, arguments: dict[str, Any]) -> None:
        """A decoder layer is about to run; its keyword arguments may be changed in place."""

    def attention(self, call: DecoderCall, layer: int, attention: AttentionCall) -> Output | None:
        """An attention module has query, key and value; its output, or None for the kernel's."""

    def before_norm(self, call: DecoderCall, hidden: Tensor) -> Tensor:
        """The states after the last layer, `[B, T, D]`; returns what the final norm gets."""


class DecoderHooks:
    """The hooks of one model.

    Args:
        decoder: the model's LLM.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.users: list[DecoderUser] = []
        base = decoder.base
        self._names = _arguments(base)
        self._llm_names = _arguments(decoder.language_model)
        self._first = _arguments(decoder.layers[0])[0]
        self._handles = [
            base.register_forward_pre_hook(self._before_base, with_kwargs=True),
            base.register_forward_hook(self._after_base, always_call=True),
            decoder.language_model.register_forward_pre_hook(self._before_llm, with_kwargs=True),
            decoder.norm.register_forward_pre_hook(self._before_norm),
        ]
        for number, layer in enumerate(decoder.layers):
            hook = partial(self._before_layer, number)
            self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        for number in decoder.attends():
            install_tap(self._attention(number))
        self._announcer = PromptAnnouncer(decoder, self.forget)
        wrap_stock_generate(decoder.model, self._announcer)

    def _attention(self, layer: int) -> nn.Module:
        """The attention module of a layer that attends."""
        module = self.decoder.attention(layer)
        if module is None:
            raise ValueError(f"layer {layer} has no attention module")
        return module

    def remove(self) -> None:
        """Undo everything."""
        unwrap_generate(self.decoder.model, self._announcer)
        for handle in self._handles:
            handle.remove()
        for number in self.decoder.attends():
            remove_tap(self._attention(number))
        self.forget()

    def forget(self) -> None:
        """Drop passes in this thread, which must all be over."""
        decoder_passes.end(self)

    # A pass reads context variables and sizes, which a compiled graph cannot hold.
    @torch.compiler.disable
    def _before_base(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Build the call."""
        self.forget()
        arguments = {**dict(zip(self._names, args, strict=False)), **kwargs}
        call = self._call(arguments)
        handlers = {
            id(self._attention(number)): partial(self._show_attention, call, number)
            for number in self.decoder.attends()
        }
        decoder_passes.begin(self, call, handlers)
        for user in self.users:
            user.begin(call)
        return (), arguments

    def _call(self, arguments: dict[str, Any]) -> DecoderCall:
        """The call of a pass; it gets a cache if the model would make one."""
        ids = arguments.get("input_ids")
        if ids is None:
            raise ValueError(
                "stages inside the LLM and reweighting find images by their placeholder ids; pass "
                "input_ids, not inputs_embeds"
            )
        if self.decoder.language_model.training and getattr(
            self.decoder.language_model, "gradient_checkpointing", False
        ):
            raise ValueError(
                "stages inside the LLM and reweighting cannot be replayed by gradient "
                "checkpointing; call gradient_checkpointing_disable() or detach() first"
            )
        cache = arguments.get("past_key_values")
        uses_cache = arguments.get("use_cache")
        if cache is None and (self.decoder.config.use_cache if uses_cache is None else uses_cache):
            cache = arguments["past_key_values"] = DynamicCache(config=self.decoder.config)
        batch, length = ids.shape
        memory = memory_of(cache, batch, self.decoder.depth, ids.device)
        visual = torch.zeros_like(ids, dtype=torch.bool)
        if self._brings_features(arguments):
            for token_id in self.decoder.placeholders:
                visual |= ids == token_id
        past = memory.length
        real = real_columns(arguments.get("attention_mask"), visual, past)
        again = cache is None and whole_prompt.get() is not None
        memory = marked(extended(memory, visual, real), past, again)
        whole = _whole(past + length, batch)
        behind = text_behind_images(memory.visual, memory.real, past, whole)
        places = torch.arange(length, device=ids.device)
        ends = torch.where(real, places, -1).max(dim=1).values
        if whole is not None:
            ends = torch.full_like(ends, -1)
        nothing: list[Tensor | None] = [None] * self.decoder.depth
        answer = _answer(past, length)
        return DecoderCall(cache, past, length, memory, behind, ends, answer, nothing)

    def _brings_features(self, arguments: dict[str, Any]) -> bool:
        """Whether a pass has features for its placeholders; guessed tokens may look like some."""
        names = (*self.decoder.adapter.pixels.values(), "mm_encoder_outputs")
        return any(arguments.get(name) is not None for name in names)

    def _after_base(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Leave the memory on the cache, unless the pass failed."""
        call = decoder_passes.end(self)
        # Without output the pass failed, maybe before it began.
        if call is not None and output is not None:
            call.remember()

    def current(self) -> DecoderCall | None:
        """The call of this thread's pass, or None outside of one."""
        return decoder_passes.current(self)

    @torch.compiler.disable
    def _before_llm(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See whether this is the LLM's one call of a pass, or someone uses the LLM alone."""
        decoder_passes.enter(self, {**dict(zip(self._llm_names, args, strict=False)), **kwargs})

    def _before_layer(
        self, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Show a layer to the users."""
        call = self.current()
        if call is None:
            return None
        arguments = {**kwargs, **({self._first: args[0]} if args else {})}
        for user in self.users:
            user.before_layer(call, layer, arguments)
        # transformers reads the states that it collects off the first place.
        return (arguments.pop(self._first), *args[1:]), arguments

    def _show_attention(self, call: DecoderCall, layer: int, attention: AttentionCall) -> Output:
        """Show an attention module to the users; the first output counts."""
        for user in self.users:
            output = user.attention(call, layer, attention)
            if output is not None:
                return output
        return attention.run()

    def _before_norm(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Show the last states to the users, in reverse order."""
        call = self.current()
        if call is None:
            return None
        hidden = args[0]
        for user in reversed(self.users):
            hidden = user.before_norm(call, hidden)
        return (hidden, *args[1:])


def _arguments(module: nn.Module) -> tuple[str, ...]:
    """Names of a module's arguments."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


def real_columns(mask: Any, visual: Tensor, past: int) -> Tensor:
    """New columns that are no padding, `[B, L]` bool.

    Args:
        mask: what the model was given: `[B, S]`, a prepared 4-D mask, a dict of such, or None.
        visual: `[B, L]`, for the shape.
        past: cached columns.
    """
    if isinstance(mask, dict):
        mask = next(iter(mask.values()))
    batch, length = visual.shape
    if mask is None:
        return torch.ones_like(visual)
    if not isinstance(mask, Tensor):
        raise ValueError(
            f"an attention mask of type {type(mask).__name__} is not known to stages inside the "
            "LLM and reweighting; use attn_implementation='sdpa', 'eager' or flash attention"
        )
    if mask.dim() == 2:
        return (mask[:, past : past + length] != 0).expand(batch, -1)
    # A real token sees itself.
    own = mask[:, 0].diagonal(past, dim1=1, dim2=2)[:, :length]
    return (own if own.dtype == torch.bool else own == 0).expand(batch, -1)


def _whole(columns: int, batch: int) -> Tensor | None:
    """The visual tokens of a prompt of which more passes follow, or None."""
    whole = whole_prompt.get()
    if whole is None or whole.shape[1] <= columns:
        return None
    return whole.repeat_interleave(batch // whole.shape[0], 0)


def _answer(past: int, length: int) -> int:
    """How many of the new columns are a prompt's."""
    whole = whole_prompt.get()
    if whole is None:
        return 0 if length == 1 and past else length
    return min(max(whole.shape[1] - past, 0), length)


def join(model: Any, user: DecoderUser, first: bool = False) -> DecoderHooks:
    """Install the hooks of a model, or share those that are there.

    Args:
        model: a whole model, unwrapped.
        user: shown every pass from now on.
        first: whether it is shown layers before the other users.
    """
    hooks: DecoderHooks | None = model.__dict__.get(_ATTRIBUTE)
    if hooks is None:
        hooks = model.__dict__[_ATTRIBUTE] = DecoderHooks(Decoder(model))
    hooks.users.insert(0 if first else len(hooks.users), user)
    return hooks


def leave(model: Any, user: DecoderUser) -> None:
    """Stop showing passes to a user; the last one takes the hooks with it."""
    hooks: DecoderHooks = model.__dict__[_ATTRIBUTE]
    hooks.users.remove(user)
    if not hooks.users:
        hooks.remove()
        del model.__dict__[_ATTRIBUTE]
