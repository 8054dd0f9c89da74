"""The way to a vLLM engine, and what goes in and out of it: tokens, images, one plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mrrag_llamaindex.steering.wire.request_plan import RequestPlan, to_extra_args

MOST_LOGPROBS = 128
"""Tokens whose log-probability vLLM tells for one request."""


@dataclass(frozen=True, eq=False)
class WireRequest:
    """One request as it is sent.

    Attributes
    ----------
    sent_ids : tuple of int
        The prompt, with one marker in place of an image's features.
    prompt_ids : tuple of int
        The prompt as the engine must read it.
    images : tuple of PIL.Image.Image
        As `ImageReader.to_send` gives them.
    max_new_tokens : int
    watched : tuple of int
        Tokens whose log-probability is wanted.
    unused : tuple of int
        Rows of the vocabulary that are no words: never chosen.
    ends : tuple of int
        Tokens that end the answer.
    plan : RequestPlan or None
    """

    sent_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    images: tuple[Image.Image, ...]
    max_new_tokens: int
    watched: tuple[int, ...]
    unused: tuple[int, ...]
    ends: tuple[int, ...]
    plan: RequestPlan | None

    @property
    def sampling(self) -> dict[str, Any]:
        """Fields of vLLM's ``SamplingParams``: greedy, whatever the engine's own defaults."""
        values: dict[str, Any] = {
            "temperature": 0.0,
            "max_tokens": self.max_new_tokens,
            "logprob_token_ids": list(self.watched),
            "stop_token_ids": list(self.ends),
            "detokenize": False,
        }
        if self.unused:
            values["logit_bias"] = dict.fromkeys(self.unused, -100.0)
        if self.plan is not None:
            values["extra_args"] = to_extra_args(self.plan)
        return values


@dataclass(frozen=True)
class Piece:
    """What an engine says of a request, each time that it says something.

    Attributes
    ----------
    tokens : sequence of int
        New ones.
    logprobs : sequence of mapping of int to float
        For each of them, log-probabilities of the watched tokens and of itself.
    prompt_ids : sequence of int or None
        What the engine read; with the first piece.
    finish_reason : str or None
        ``"stop"``, ``"length"``, ``"error"`` or ``"abort"``, with the last piece.
    stop_reason : object
        With the last piece; of a steered request the report.
    """

    tokens: Sequence[int]
    logprobs: Sequence[Mapping[int, float]]
    prompt_ids: Sequence[int] | None = None
    finish_reason: str | None = None
    stop_reason: object = None


class Door(ABC):
    """A vLLM engine. All its methods are coroutines of one event loop.

    Attributes
    ----------
    name : str
        For messages, as the subject of a sentence.
    """

    name: str

    @abstractmethod
    async def open(self) -> int:
        """Start or reach the engine; return the tokens that its window has.

        Raises
        ------
        ModelError
            If that fails, or the engine does not steer.
        """

    @abstractmethod
    def pieces(self, request: WireRequest) -> AsyncGenerator[Piece, None]:
        """Yield what the engine says; closing the iterator takes the request back.

        Raises
        ------
        ModelError
            If the engine refuses the request, or goes away.
        """

    @abstractmethod
    async def close(self) -> None:
        """Give up the engine."""
