"""Attention knockout on one question at a time: every edge in every window of layers.

Blocked rows all stand behind the image and the documents, so these are prefilled once per
question; each window is then one short forward pass whose rows are the edges.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from PIL import Image

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
from mrrag_llamaindex.learning.layers.edges import (
    Edge,
    block_plan,
    default_window,
    edges_of,
    everything,
    window_around,
)
from mrrag_llamaindex.steering.spans import PromptSpans

ROWS = 16
"""Rows per forward pass, enough for every edge of a question with ten documents: each row repeats
the keys and values of image and documents."""

_SAME = 1e-3  # of p: rows of other batches may differ in their last digits, nowhere near this


@dataclass(frozen=True)
class Example:
    """A question whose answer is known, with the documents that it is asked with.

    Attributes
    ----------
    request : PromptRequest
    image : PIL.Image.Image or None
        Mode RGB.
    answer : str
        ``"yes"`` or ``"no"``.
    patient_id : str
    """

    request: PromptRequest
    image: Image.Image | None
    answer: str
    patient_id: str


@dataclass(frozen=True)
class Baseline:
    """An example as this model reads it, and the answer that it gives unblocked.

    Attributes
    ----------
    prompt : Prompt
    image : PreparedImage or None
    spans : PromptSpans
    token : int
        The first answer token: the most probable one.
    probability : float
        Of that token.
    """

    prompt: Prompt
    image: PreparedImage | None
    spans: PromptSpans
    token: int
    probability: float


class Knockout:
    """Blocking in one model.

    Parameters
    ----------
    engine : LlavaEngine
        Steering is off in every call made here. With a ``prefix_cache`` of 0 image and documents
        are prefilled for every window.
    window : int, optional
        Layers blocked at once, `default_window` if not given.
    rows : int
        Most rows in one forward pass, at least 2.

    Attributes
    ----------
    depth : int
        Layers of the model, hence window centres.

    Raises
    ------
    ValueError
        If window or rows are out of range.
    """

    def __init__(self, engine: LlavaEngine, window: int | None = None, rows: int = ROWS) -> None:
        text = engine.model.config.get_text_config(decoder=True)
        self.engine = engine
        self.depth = int(text.num_hidden_layers)
        self.window = default_window(self.depth) if window is None else window
        if not 1 <= self.window <= self.depth:
            raise ValueError(f"a window of {window} layers in a model that has {self.depth}")
        if rows < 2:
            raise ValueError(f"rows is {rows}; one edge and the unblocked row need 2")
        self.rows = rows

    def ask(self, example: Example) -> Baseline:
        """Read one example and answer it, unblocked."""
        image = None if example.image is None else self.engine.read_image(example.image)
        prompt = self.engine.prompt(example.request, image)
        spans = prompt.spans
        logits = self.engine.runner.logits([prompt.input_ids], [image], shared=self._shared(spans))
        p, token = logits[0, -1].softmax(-1).max(-1)
        return Baseline(prompt, image, spans, int(token), float(p))

    def changes(self, baseline: Baseline) -> dict[str, list[float]]:
        """Block every edge in every window.

        Returns
        -------
        dict of str to list of float
            By edge, for each window centre: ``100 (p_blocked - p) / p``, in percent, of the
            probability of `Baseline.token`. ``p`` is that of an unblocked row of the same pass.

        Raises
        ------
        SteeringError
            If the unblocked row is not what it is without any blocking.
        """
        edges = edges_of(baseline.spans)
        changes: dict[str, list[float]] = {edge.name: [] for edge in edges}
        size = self.rows - 1
        for centre in range(self.depth):
            layers = window_around(centre, self.window, self.depth)
            for start in range(0, len(edges), size):
                part = edges[start : start + size]
                *blocked, free = self.probabilities(baseline, [*part, None], layers)
                if abs(free - baseline.probability) > _SAME * baseline.probability:
                    raise SteeringError(
                        f"control failed: around layer {centre} the row in which nothing is "
                        f"blocked answers with {free:.6f} instead of {baseline.probability:.6f}"
                    )
                for edge, p in zip(part, blocked, strict=True):
                    changes[edge.name].append(100 * (p - free) / free)
        return changes

    def control(self, baseline: Baseline) -> tuple[float, float]:
        """Run the two controls on one example.

        Returns
        -------
        empty : float
            Change in percent when a plan in every layer blocks nothing, against a pass of the
            same shape without a plan: exactly 0, or blocking is more than it says.
        full : float
            Change when neither image nor documents are seen from the question on, in any layer:
            not 0, or blocking does not reach the model.
        """
        pair = [baseline.prompt.input_ids] * 2
        shared = self._shared(baseline.spans)
        logits = self.engine.runner.logits(pair, [baseline.image] * 2, shared=shared)
        plain = logits[:, -1].softmax(-1)[:, baseline.token].tolist()
        nothing = self.probabilities(baseline, [None, None], range(self.depth))
        full, free = self.probabilities(
            baseline, [everything(baseline.spans), None], range(self.depth)
        )
        # Beside a row that is blocked, a row that is not must stay what it was, too; up to
        # rounding, which may depend on the other rows of a batch.
        if abs(free - plain[0]) > _SAME * plain[0]:
            raise SteeringError(
                f"control failed: beside a blocked row, one in which nothing is blocked answers "
                f"with {free:.6f} instead of {plain[0]:.6f}"
            )
        # Row by row: two equal rows of one batch may differ in their last digits.
        off = max(abs(p - q) for p, q in zip(nothing, plain, strict=True))
        return 100 * off / plain[0], 100 * (full - free) / free

    def probabilities(
        self,
        baseline: Baseline,
        edges: Sequence[Edge | None],
        layers: Collection[int],
        heads: tuple[int, ...] | None = None,
    ) -> list[float]:
        """Return the probability of `Baseline.token` in a pass whose rows block one edge each.

        Parameters
        ----------
        baseline, edges, layers, heads
            See `block_plan`.
        """
        shared = self._shared(baseline.spans)
        device = self.engine.model.device
        plan = block_plan(edges, baseline.spans, layers, device, shared, heads)
        logits = self.engine.runner.logits(
            [baseline.prompt.input_ids] * len(edges),
            [baseline.image] * len(edges),
            shared=shared,
            steering=plan,
        )
        probabilities: list[float] = logits[:, -1].softmax(-1)[:, baseline.token].tolist()
        return probabilities

    def _shared(self, spans: PromptSpans) -> int:
        return spans.question[0] if self.engine.shares_prefix else 0
