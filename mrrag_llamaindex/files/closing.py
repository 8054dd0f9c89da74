"""What is closed when its ``with`` block ends, whatever happened in it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from typing_extensions import Self


class Closing(ABC):
    """A context manager that is itself, and closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
