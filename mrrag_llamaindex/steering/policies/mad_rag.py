"""MAD-RAG: the question stands before and behind the documents, and its two readings are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.edit import RowMix
from mrrag_llamaindex.steering.policies.editing import EditingPolicy
from mrrag_llamaindex.steering.policy import Layers, QuestionRows, Weighted
from mrrag_llamaindex.steering.spans import PromptSpans


@dataclass(frozen=True)
class MADRAG(EditingPolicy):
    """Mix what the question saw of image and documents with what it saw of the image alone.

    The prompt is image, question, documents, question. In each steered layer, with ``O_1`` and
    ``O_2`` the attention outputs of the first and the second question's rows,

        O_2 = (1 - alpha) * O_2 + alpha * O_1,

    token by token (MAD-RAG, Zhao et al., arXiv 2602.00344). Being linear, it is as if the second
    question's attention were mixed with the first's: the share of the image rises, that of the
    documents falls by the factor ``1 - alpha``. Lambdas are not read.

    From the paper: the order of the prompt, the formula, and alpha of .5 or .7. Ours, where we
    found nothing said: all layers, all heads, the question's own tokens, and the prompt alone, not
    the rows of generated tokens. A prompt without documents is asked once, plainly.

    What stands before the (second) question is another text than any other policy's, and the rows
    of both questions must be in one call: no prefix is shared.

    Attributes
    ----------
    alpha
        Share of the first question's output, in [0, 1]; 0 mixes nothing, and still asks twice.
    layers
        None: all of them.
    question_rows
        ``"question"`` alone: what follows the question stands behind the documents only.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    alpha: float = defaults.MAD_RAG_ALPHA
    layers: Layers | None = None
    question_rows: QuestionRows = "question"

    idle: ClassVar[str] = "no document stands between two questions"
    reads_lambdas: ClassVar[bool] = False
    shares_prefix: ClassVar[bool] = False
    asks_twice: ClassVar[bool] = True
    tuned: ClassVar[str] = "alpha"
    three_values: ClassVar[tuple[float, float, float]] = (0.3, 0.5, 0.7)
    four_values: ClassVar[tuple[float, ...]] = (0.3, 0.5, 0.7, 0.9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha!r}")
        if self.question_rows != "question":
            raise ValueError(
                "question_rows must be 'question': what follows the second question has no "
                f"counterpart behind the first, got {self.question_rows!r}"
            )

    def default_layers(self, depth: int) -> Layers:
        """All layers."""
        return tuple(range(depth))

    def columns(self, spans: PromptSpans, lambdas: Sequence[float]) -> list[Weighted]:
        """Columns of the first question, from whose rows the mix takes alpha."""
        if spans.first_question is None or self.is_off:
            return []
        return [(spans.first_question, self.alpha)]

    def edit(self, spans: Sequence[PromptSpans], lambdas: Sequence[Sequence[float]]) -> RowMix:
        """Return the mix of a batch.

        Raises
        ------
        SteeringError
            If the two questions of a prompt are not of as many tokens.
        """
        distances = []
        for row, prompt in enumerate(spans):
            start, stop = prompt.question
            first, first_stop = prompt.first_question or prompt.question
            if first_stop - first != stop - start:
                raise SteeringError(
                    f"row {row}: the question has {first_stop - first} tokens before the documents "
                    f"and {stop - start} behind them, so their rows cannot be mixed; begin the "
                    "question with another word, or use another policy"
                )
            distances.append(start - first)
        return RowMix(self.alpha, tuple(distances))
