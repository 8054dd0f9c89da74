"""Ask one engine the questions of a set with one method, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from mrrag_llamaindex.errors import ImageError, InputError, PromptError
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet, LeftOut
from mrrag_llamaindex.evaluation.data.prediction import Prediction
from mrrag_llamaindex.evaluation.data.set_embedding import image_key
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.run.option_likelihoods import (
    Likelihoods,
    has_likelihoods,
    option_likelihoods,
)
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.images.load import load_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from mrrag_llamaindex.evaluation.methods.vote import Voters
    from mrrag_llamaindex.generation.interface import Engine

_BATCHES_AT_ONCE = 4


class Answering:
    """An engine that answers for methods.

    Parameters
    ----------
    engine : Engine or None
        None: only for methods that ask no model.
    max_new_tokens : int
        Longest answer.
    weighs_options : bool
        Whether the likelihood of each of a question's options is asked for, too.

    Attributes
    ----------
    left_out : dict
        By method and question id: questions that could not be asked. Their text is empty.
    """

    def __init__(
        self, engine: Engine | None, max_new_tokens: int, weighs_options: bool = False
    ) -> None:
        self.engine = engine
        self.max_new_tokens = max_new_tokens
        self.weighs_options = weighs_options
        self.left_out: dict[tuple[str, str], LeftOut] = {}
        self._images: dict[object, Image] = {}

    def answer(
        self,
        method: Method,
        data: EmbeddedSet,
        answered: Collection[str],
        keep: Callable[[list[Prediction]], None],
    ) -> list[Prediction]:
        """Ask what is not answered yet, in the order of the set.

        Parameters
        ----------
        method : Method
        data : EmbeddedSet
        answered : collection of str
            Ids of questions that are not asked again.
        keep : callable
            Takes every batch of answers before the next one is asked for.
        """
        rows = [n for n, item in enumerate(data.questions) if item.question_id not in answered]
        size = _BATCHES_AT_ONCE * (self.engine.batch_size if self.engine else 1)
        answers: list[Prediction] = []
        for start in range(0, len(rows), size):
            batch = self._batch(method, data, rows[start : start + size])
            keep(batch)
            answers += batch
        return answers

    def note_unasked(self, answers: Iterable[Prediction]) -> None:
        """List the questions that an earlier run could not ask: their text has no probabilities."""
        for item in answers:
            key = item.method, item.question_id
            if not item.text and item.p_yes is None and key not in self.left_out:
                reason = f"{item.method}: it could not be asked by the run that this one goes on"
                self.left_out[key] = LeftOut(item.question_id, reason)

    def _batch(self, method: Method, data: EmbeddedSet, rows: Sequence[int]) -> list[Prediction]:
        try:
            return self._generate(method, data, rows)
        except (PromptError, ImageError) as error:
            if len(rows) == 1:
                item = data.questions[rows[0]]
                reason = LeftOut(item.question_id, f"{method.name}: {error}")
                self.left_out[method.name, item.question_id] = reason
                return [self._prediction(method, data, rows[0], None)]
            # One question is refused for all of its batch, so they are asked one by one.
            return [item for row in rows for item in self._batch(method, data, [row])]

    def _generate(self, method: Method, data: EmbeddedSet, rows: Sequence[int]) -> list[Prediction]:
        if not method.generates:
            return [self._voted(method, data, row) for row in rows]
        if self.engine is None:
            raise InputError(f"{method.name} needs a model")
        requests = [
            PromptRequest(data.questions[row].question, tuple(method.documents(data, row)))
            for row in rows
        ]
        decoding = {} if method.decoding is None else {"decoding": method.decoding}
        answers = self.engine.generate(
            requests,
            self._shown(data, rows),
            policy=method.policy,
            max_new_tokens=self.max_new_tokens,
            **decoding,
        )
        weighed: list[Likelihoods] = [()] * len(rows)
        if self.weighs_options and has_likelihoods(method.policy, method.decoding):
            options = [data.options[data.questions[row].question_id] for row in rows]
            shown = self._shown(data, rows)
            weighed = [
                option_likelihoods(self.engine, *asked, method.policy)
                for asked in zip(requests, shown, options, strict=True)
            ]
        return [
            replace(self._prediction(method, data, row, answer), likelihoods=likelihoods)
            for row, answer, likelihoods in zip(rows, answers, weighed, strict=True)
        ]

    def _voted(self, method: Method, data: EmbeddedSet, row: int) -> Prediction:
        """Answer by vote; where nobody can vote, the question counts as not answered."""
        ballot, documents = cast("Voters", method.ranking).ballot(data, row)
        if ballot is None:
            question = data.questions[row].question_id
            reason = f"{method.name}: no pair answers it"
            self.left_out[method.name, question] = LeftOut(question, reason)
            return self._prediction(method, data, row, None)
        item = data.questions[row]
        key = method.name, item.question_id, item.patient_id, data.golds[row]
        shares = ballot.answer, ballot.p_yes, ballot.p_no
        return Prediction(*key, *shares, documents, task=data.task)

    def _shown(self, data: EmbeddedSet, rows: Sequence[int]) -> list[Image]:
        """Load the images of a batch; one that several rows ask about is loaded once."""
        keys = [image_key(data.questions[row]) for row in rows]
        images = {key: self._images[key] for key in keys if key in self._images}
        for key, row in zip(keys, rows, strict=True):
            if key not in images:
                images[key] = load_image(data.questions[row].image, what="query image")
        self._images = images
        return [images[key] for key in keys]

    def _prediction(self, method: Method, data: EmbeddedSet, row: int, answer: Any) -> Prediction:
        item = data.questions[row]
        key = method.name, item.question_id, item.patient_id, data.golds[row]
        if answer is None:
            return Prediction(*key, text="", task=data.task)
        told = answer.text, answer.p_yes, answer.p_no, answer.document_ids
        return Prediction(*key, *told, task=data.task)
