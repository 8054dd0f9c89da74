"""How confidently a generator gives the gold answer, with each document alone.

Only the document differs between the prompts of one question, so what stands before it (the
image, the instructions) is prefilled once, and the rest of all prompts is one batch. Nothing is
generated: a yes/no answer is read off the first answer token, an open one is teacher-forced. One
document alone has lambda 0, so there is nothing to steer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from mrrag_llamaindex.errors import InputError, ModelError, PromptError
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.influence.teacher_forcing import teacher_forced
from mrrag_llamaindex.generation.interface import Engine
from mrrag_llamaindex.generation.prompt.batching import LEAST_SHARED
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptDocument, PromptRequest
from mrrag_llamaindex.learning.mining.gold_answer import mean_log_probability, renormalised
from mrrag_llamaindex.mcr.vote import polarity

ROWS = 32
"""Prompts per forward pass, enough for one question: each adds a report and a question to the image
that they share."""


@dataclass(frozen=True)
class _Row:
    """Tokens to run, of which the last `answer` are the gold answer's."""

    ids: tuple[int, ...]
    answer: int
    question_start: int
    image_stop: int


class AnswerConfidence:
    """Confidence of one generator in gold answers.

    Parameters
    ----------
    engine : Engine
    batch_size : int
        Most prompts in one forward pass.
    share : bool
        False: prefill every prompt whole.

    Attributes
    ----------
    identity : str
        Name of the model, and a digest of its weights, their type and the prompt's layout.

    Raises
    ------
    ValueError
        If `batch_size` is not positive.
    """

    def __init__(self, engine: Engine, *, batch_size: int = ROWS, share: bool = True) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.engine = engine
        self.batch_size = batch_size
        self.share = share and engine.shares_prefix
        self.identity = engine.identity
        self._polar = {"yes": engine.yes_ids, "no": engine.no_ids}

    def rate(
        self,
        image: Image.Image | None,
        question: str,
        answer: str,
        documents: Sequence[str | None],
    ) -> list[float | None]:
        """Return the confidence in ``answer`` with each document alone.

        Parameters
        ----------
        image : PIL.Image.Image or None
            The query image, mode RGB.
        question : str
        answer : str
            The gold answer; see `polarity` for when it is a yes/no answer.
        documents : sequence of str or None
            Reports; None stands for no document at all.

        Returns
        -------
        list of float or None
            For a yes/no answer the probability that the first answer token spells it,
            renormalised over the spellings of yes and of no; else the mean log-probability of
            the answer's tokens (natural logarithm, at most 0). None for a document that this
            model cannot read: empty, or too long for its window.

        Raises
        ------
        PromptError
            If the question is empty or too long even without a document.
        InputError
            If the answer is empty, or holds control tokens of the model.
        ModelError
            If the model fails, or has no single token for yes or for no.
        """
        if not answer.strip():
            raise InputError("the gold answer is empty")
        gold = polarity(answer)
        if gold is not None and not all(self._polar.values()):
            raise ModelError(
                "this model's tokenizer has no single token for yes or for no, so the confidence "
                "in such an answer cannot be read off its first token"
            )
        prepared = None if image is None else self.engine.read_image(image)
        confidence: dict[str | None, float | None] = {}
        rows: dict[str | None, _Row] = {}
        # Equal texts are asked once: two rows of one batch may differ in the last digits.
        for document in dict.fromkeys(documents):
            prompt = self._prompt(question, document, prepared)
            if prompt is None:
                confidence[document] = None
            else:
                rows[document] = self._row(prompt, None if gold else answer)
        values = self._run(list(rows.values()), prepared, gold)
        confidence.update(zip(rows, values, strict=True))
        return [confidence[document] for document in documents]

    def _prompt(
        self, question: str, document: str | None, image: PreparedImage | None
    ) -> Prompt | None:
        if document is None:
            return self.engine.prompt(PromptRequest(question), image)
        if not document.strip():
            return None
        try:
            request = PromptRequest(question, [PromptDocument("document", document)])
            return self.engine.prompt(request, image)
        except PromptError:
            # The question may be what does not fit; that is an error of its own.
            self.engine.prompt(PromptRequest(question), image)
            return None

    def _row(self, prompt: Prompt, answer: str | None) -> _Row:
        start = prompt.question_span[0]
        stop = prompt.image_span[1] if prompt.image_span else 0
        if answer is None:
            return _Row(prompt.input_ids, 0, start, stop)
        forced = teacher_forced(self.engine, prompt, answer)
        return _Row(forced.ids, forced.count, start, stop)

    def _run(
        self, rows: Sequence[_Row], image: PreparedImage | None, gold: str | None
    ) -> list[float]:
        shared = self._shared(rows) if self.share and len(rows) > 1 else 0
        values: dict[int, float] = {}
        longest_first = sorted(range(len(rows)), key=lambda place: -len(rows[place].ids))
        for start in range(0, len(rows), self.batch_size):
            places = longest_first[start : start + self.batch_size]
            batch = [rows[place] for place in places]
            logits = self.engine.runner.logits(
                [row.ids for row in batch],
                [image] * len(batch),
                shared=shared,
                keep=1 + max(row.answer for row in batch),
            )
            for place, row, scores in zip(places, batch, logits, strict=True):
                if gold is None:
                    values[place] = mean_log_probability(scores, row.ids[-row.answer :])
                else:
                    other = self._polar["no" if gold == "yes" else "yes"]
                    values[place] = renormalised(scores[-1], self._polar[gold], other)
        return [values[place] for place in range(len(rows))]

    def _shared(self, rows: Sequence[_Row]) -> int:
        """Tokens that all rows begin with: at most up to the question, the image whole."""
        shortest = min(row.question_start for row in rows)
        columns = zip(*(row.ids[:shortest] for row in rows), strict=True)
        same = (len(set(column)) == 1 for column in columns)
        common = next((n for n, equal in enumerate(same) if not equal), shortest)
        # Sharing an image saves the vision tower, too, however few tokens it takes.
        return common if common >= (rows[0].image_stop or LEAST_SHARED) else 0
