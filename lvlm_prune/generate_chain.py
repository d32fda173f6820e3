"""Wrappers of `model.generate` on the instance, which may come and go in any order.

In: a model and a callable with the attribute `original`, what it calls in turn. A wrapper that is
taken out of the middle is skipped by the one around it; when the last one is gone, the instance has
no `generate` of its own again, or the one that it had before.
"""

from typing import Any, Protocol


class GenerateWrapper(Protocol):
    """Stands in for `model.generate`."""

    original: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do something around `original`."""


def wrap_generate(model: Any, wrapper: GenerateWrapper) -> None:
    """Put a wrapper around whatever the model's `generate` is; its `original` is set.

    Args:
        model: the model.
        wrapper: the new outermost callable.
    """
    wrapper.original = model.generate
    model.__dict__["generate"] = wrapper


def wrap_stock_generate(model: Any, wrapper: GenerateWrapper) -> None:
    """Put a wrapper inside all others, where it sees what the stock `generate` is given.

    Args:
        model: the model.
        wrapper: the new innermost callable.
    """
    outer = model.__dict__.get("generate")
    if getattr(outer, "original", None) is None:
        wrap_generate(model, wrapper)
        return
    while getattr(outer.original, "original", None) is not None:
        outer = outer.original
    wrapper.original, outer.original = outer.original, wrapper


def unwrap_generate(model: Any, wrapper: GenerateWrapper) -> None:
    """Take a wrapper out, wherever it stands; one that somebody else has replaced is left alone.

    Args:
        model: the model.
        wrapper: what `wrap_generate` was given.
    """
    if model.__dict__.get("generate") is wrapper:
        # A bound method of the model's class is what the instance has without our help.
        if getattr(wrapper.original, "__func__", None) is type(model).generate:
            del model.__dict__["generate"]
        else:
            model.__dict__["generate"] = wrapper.original
        return
    outer = model.__dict__.get("generate")
    while outer is not None and getattr(outer, "original", None) is not wrapper:
        outer = getattr(outer, "original", None)
    if outer is not None:
        outer.original = wrapper.original
