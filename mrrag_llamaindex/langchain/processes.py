"""What holds an open store or a loaded model stays in its process."""

from __future__ import annotations

from typing import Any, NoReturn

from typing_extensions import Self

from mrrag_llamaindex.errors import InputError


class StaysInProcess:
    """A component of LangChain that shares what it holds with its copies, and is not pickled."""

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()  # type: ignore[attr-defined, no-any-return]

    def __reduce__(self) -> NoReturn:
        raise InputError(
            f"{type(self).__name__} holds an open store or a loaded model, which no other process "
            "can use: make one in each process"
        )
