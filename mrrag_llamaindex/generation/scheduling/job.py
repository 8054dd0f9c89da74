"""One request on its way through the queue."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrrag_llamaindex.generation.answer import NOT_SHOWN, AttentionTrace

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
    from mrrag_llamaindex.generation.decoding.decoding import Decoding
    from mrrag_llamaindex.generation.planner import Planner
    from mrrag_llamaindex.generation.prompt.reader import PromptReader
    from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
    from mrrag_llamaindex.generation.runner import BatchRunner
    from mrrag_llamaindex.steering.policy import SteeringPolicy


@dataclass(frozen=True)
class Admission:
    """Who is let into a queue.

    Attributes
    ----------
    max_queue
        Most requests that may wait; one that finds as many is refused. None: any number.
    queue_timeout
        Seconds after which a request that still waits is given up; None: never.
    """

    max_queue: int | None
    queue_timeout: float | None


@dataclass(frozen=True, eq=False)
class Asked:
    """What one row of a batch needs, all of it checked.

    Attributes
    ----------
    reader, planner, runner
        Of the model.
    request, prompt, image
        The image is None where the prompt has none.
    policy
        None: plain attention.
    layers
        Those that it steers for this prompt.
    decoding
        How the tokens are chosen.
    max_new_tokens
        Longest answer.
    batch_size
        Most rows of a batch with this one.
    shares_prefix
        Whether rows with the same beginning prefill it once.
    watched
        Layers in which the attention of the question's rows is measured; none if it is not.
    unwatched
        Why it is not.
    """

    reader: PromptReader
    planner: Planner
    runner: BatchRunner
    request: PromptRequest
    prompt: Prompt
    image: PreparedImage | None
    policy: SteeringPolicy | None
    layers: tuple[int, ...]
    decoding: Decoding
    max_new_tokens: int
    batch_size: int
    shares_prefix: bool
    watched: tuple[int, ...] = ()
    unwatched: str = ""

    def joins(self, other: Asked) -> bool:
        """Whether the two may run in one batch: not if a policy of one's own cannot tell."""
        if self is other:
            return True
        try:
            return bool(
                self.batch_size == other.batch_size
                and self.shares_prefix == other.shares_prefix
                and self.decoding == other.decoding
                and self.policy == other.policy
            )
        except Exception:  # tensors among its fields, say
            return False


@dataclass(frozen=True)
class Generated:
    """Tokens of one answer, probabilities of yes and no at the first, seconds of its batch."""

    tokens: list[int]
    confidence: tuple[float, float]
    seconds: float
    attention: AttentionTrace = NOT_SHOWN


class Job(Future[Generated]):
    """A request in the queue or in a batch: a future that can be cancelled until it is done.

    It never says that it runs, so that ``cancel`` works at any time and from any thread. One that
    waits leaves the queue at once, and one that runs ends with the token in hand.

    Parameters
    ----------
    asked : Asked
    on_token : callable, optional
        Called with each token id as it comes, in the thread that generates: it must be quick.

    Attributes
    ----------
    arrived : float
        When it joined the queue, on the clock of ``time.monotonic``.
    deadline : float
        When it is given up if it still waits.
    tokens : list of int
        Those generated so far.
    """

    def __init__(self, asked: Asked, on_token: Callable[[int], object] | None = None) -> None:
        super().__init__()
        self.asked = asked
        self.arrived = 0.0
        self.deadline = math.inf
        self.tokens: list[int] = []
        self._on_token = on_token
        self._told = 0

    def join(self, timeout: float | None) -> None:
        """Note that it joins the queue, and how long it may wait there, in seconds."""
        self.arrived = time.monotonic()
        self.deadline = self.arrived + (math.inf if timeout is None else timeout)

    def token(self, token: int) -> None:
        """Take the next token."""
        self.tokens.append(token)
        if self._on_token is not None and len(self.tokens) > self._told:
            self._told = len(self.tokens)
            self._on_token(token)

    def restart(self) -> None:
        """Begin again; what its reader was told is the same and is not told twice."""
        self.tokens = []

    def succeed(self, generated: Generated) -> bool:
        """Set the result; False if it was cancelled meanwhile."""
        with contextlib.suppress(InvalidStateError):
            self.set_result(generated)
            return True
        return False

    def fail(self, error: BaseException) -> bool:
        """Set an error; False if it was cancelled meanwhile."""
        with contextlib.suppress(InvalidStateError):
            self.set_exception(error)
            return True
        return False
