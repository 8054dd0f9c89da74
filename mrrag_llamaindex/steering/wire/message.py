"""What crosses processes: one string of JSON, read whole or refused.

A serving engine takes arguments of a request that it does not know, and hands them to its plugins.
In process and over HTTP alike that is one string under one name, so that nothing has to be
flattened, and nothing is used before all of it has been validated.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mrrag_llamaindex.errors import SteeringError

MessageT = TypeVar("MessageT", bound="Message")


class Message(BaseModel):
    """What travels: frozen, without unknown fields, and with a version of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    version: Literal[1] = 1

    def dump(self) -> str:
        """Write it as JSON."""
        return self.model_dump_json()

    @classmethod
    def read(cls: type[MessageT], text: object) -> MessageT:
        """Read what `dump` wrote.

        Raises
        ------
        SteeringError
            If it is anything else. The message names fields and never repeats a value.
        """
        if not isinstance(text, str):
            raise SteeringError(f"{cls.__name__}: a string of JSON is expected")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise SteeringError(
                f"{cls.__name__}{f', {place}' if place else ''}: {first['msg']}"
            ) from None
