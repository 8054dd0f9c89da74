"""A host's call of the LLM, taken apart: the question, where context stands, what went before."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mrrag_llamaindex import defaults

if TYPE_CHECKING:
    from mrrag_llamaindex.images.query_image import QueryImage

Kind = Literal["plain", "answer", "refine", "condense"]


@dataclass(frozen=True)
class Turn:
    """An earlier question of a conversation and its answer.

    Attributes
    ----------
    question, answer : str
    image : QueryImage or None
        What the message itself holds.
    """

    question: str
    answer: str
    image: QueryImage | None = None


@dataclass(frozen=True)
class HostCall:
    """What a host's prompt says, without the sentences of its stock templates.

    Attributes
    ----------
    kind : {"plain", "answer", "refine", "condense"}
        "condense" is a chat engine's request to rephrase a follow-up question; "plain" fits none.
    question : str
        The user's; for "condense" the follow-up.
    contexts : tuple of str
        Text that stands where context goes, with its markers.
    instructions : str
        What the application itself says in system messages.
    before_question, after_question : str
        What the application's own template says around the question.
    history : tuple of Turn
    image : QueryImage or None
        That a person sent in a message.
    variables : frozenset of str
        Of the template that the host filled; empty where only finished text arrived.
    purpose : str
        What LlamaIndex says the template is for (its ``prompt_type``); empty where it says nothing.
    text : str
        For "condense", the whole prompt.
    missing : str
        What to say where no evidence arrived, by a host that is not LlamaIndex.
    left_over : int
        Messages of the conversation that are neither read nor part of a turn in ``history``.
    """

    kind: Kind
    question: str
    contexts: tuple[str, ...] = ()
    instructions: str = ""
    before_question: str = ""
    after_question: str = ""
    history: tuple[Turn, ...] = ()
    image: QueryImage | None = None
    variables: frozenset[str] = frozenset()
    purpose: str = ""
    text: str = field(default="", repr=False)
    missing: str = ""
    left_over: int = 0


_ROLE = re.compile(r"^(user|assistant|system|tool): ?", re.MULTILINE)


def turns_of_text(history: str) -> tuple[Turn, ...]:
    """Read a conversation that a host wrote as lines of ``user: ...`` and ``assistant: ...``."""
    parts = _ROLE.split(history)[1:]
    turns: list[Turn] = []
    question: str | None = None
    for role, text in zip(parts[::2], parts[1::2], strict=True):
        if role == "user":
            question = text.strip()
        elif role == "assistant":
            # An answer to nothing is about nothing that is known.
            turns.append(Turn(question or "", text.strip()))
            question = None
    return tuple(turns)


def left_over_of_text(history: str) -> int:
    """Return how many messages of such a conversation belong to no turn, as summaries do not."""
    before, *parts = _ROLE.split(history)
    used = sum(2 if turn.question else 1 for turn in turns_of_text(history))
    return len(parts) // 2 - used + bool(before.strip())


class TurnRegistry:
    """Bounded memory of which image each answered question was about.

    A chat engine's memory holds text alone, and one conversation may go from a patient to the next.
    Digests are kept here, and neither questions nor answers.

    Parameters
    ----------
    capacity : int
        Maximum number of turns; the least recently used leaves first.
    """

    def __init__(self, capacity: int = defaults.TURN_CAPACITY) -> None:
        self.capacity = capacity
        self._images: OrderedDict[bytes, frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()

    def record(
        self,
        question: str,
        answer: str,
        image: QueryImage | None,
        earlier: Sequence[Turn] = (),
    ) -> None:
        """Note that ``answer`` was given to ``question`` about ``image``.

        Parameters
        ----------
        question, answer : str
        image : QueryImage or None
        earlier : sequence of Turn
            What the conversation held before.
        """
        key = _keys([*earlier, Turn(question, answer)])[-1]
        with self._lock:
            self._images[key] = self._images.pop(key, frozenset()) | {_digest(image)}
            if len(self._images) > self.capacity:
                self._images.popitem(last=False)

    def about(self, turns: Sequence[Turn], image: QueryImage | None) -> list[Turn]:
        """Return those of a conversation's turns that are known to be about ``image`` alone.

        A turn is known by its words and by all that went before it. One that came about in the
        same words for another image could be either's, and one whose beginning the host has
        forgotten is not known.
        """
        digest = frozenset({_digest(image)})
        with self._lock:
            return [
                turn
                for turn, key in zip(turns, _keys(turns), strict=True)
                if self._known(turn, key) == digest
            ]

    def _known(self, turn: Turn, key: bytes) -> frozenset[str]:
        if turn.image is not None:
            return frozenset({turn.image.digest})
        return self._images.get(key, frozenset())


def _digest(image: QueryImage | None) -> str:
    return "" if image is None else image.digest


def _keys(turns: Sequence[Turn]) -> list[bytes]:
    """Return a digest of the conversation up to each turn."""
    keys = [b""]
    for turn in turns:
        question, answer = turn.question.strip(), turn.answer.strip()
        text = f"{len(question)}:{question}{answer}".encode("utf-8", "surrogatepass")
        keys.append(hashlib.sha256(keys[-1] + text).digest())
    return keys[1:]


TURNS = TurnRegistry()
"""The registry of this process."""
