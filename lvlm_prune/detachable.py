"""What is attached to a model until it is detached, and a context manager for that time."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, TypeVar

Self = TypeVar("Self", bound="Detachable")


class Detachable(ABC):
    """Something that marks the model that it is attached to.

    Args:
        model: the model, unwrapped.
    """

    mark: ClassVar[str]  # attribute on the model
    called: ClassVar[str]  # in messages

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def attached(self) -> bool:
        """Whether the model still carries it."""
        return self.model.__dict__.get(self.mark) is self

    @abstractmethod
    def detach(self) -> None:
        """Undo everything. Calling it again does nothing."""

    def __enter__(self: Self) -> Self:
        if not self.attached:
            raise RuntimeError(f"this {self.called} is detached; attach it again")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()
