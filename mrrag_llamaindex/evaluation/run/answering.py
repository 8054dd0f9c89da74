"""Ask one engine the questions of a set with one method, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
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
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion

if TYPE_CHECKING:
    from PIL.Image import Image

    from mrrag_llamaindex.evaluation.methods.vote import Voters
    from mrrag_llamaindex.generation.interface import Engine

_BATCHES_AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class Asked:
    """A question as it is asked, with all that its answer depends on apart from the method.

    Attributes
    ----------
    item : GoldQuestion
    gold : str
    task : str
    documents : tuple of PromptDocument
        Best first.
    options : tuple of str
        That it can be answered with, where likelihoods are asked for.
    """

    item: GoldQuestion
    gold: str
    task: str
    documents: tuple[PromptDocument, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, method: Method, data: EmbeddedSet, row: int) -> Asked:
        """Return one question of a set with the documents that a method chooses for it."""
        item = data.questions[row]
        documents = tuple(method.documents(data, row)) if method.generates else ()
        options = tuple(data.options.get(item.question_id, ()))
        return cls(item, data.golds[row], data.task, documents, options)


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
        size = at_once(self.engine.batch_size if self.engine else 1)
        answers: list[Prediction] = []
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            if method.generates:
                batch = self.generated(method, [Asked.of(method, data, row) for row in some])
            else:
                batch = [self._voted(method, data, row) for row in some]
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

    def generated(self, method: Method, asked: Sequence[Asked]) -> list[Prediction]:
        """Ask the model some questions; those that it cannot be asked are listed.

        Parameters
        ----------
        method : Method
            Its ranking has chosen the documents.
        asked : sequence of Asked
        """
        try:
            return self._generate(method, asked)
        except (PromptError, ImageError) as error:
            if len(asked) == 1:
                name = asked[0].item.question_id
                self.left_out[method.name, name] = LeftOut(name, f"{method.name}: {error}")
                return [_prediction(method, asked[0], None)]
            # One question is refused for all of its batch, so they are asked one by one.
            return [answer for one in asked for answer in self.generated(method, [one])]

    def _generate(self, method: Method, asked: Sequence[Asked]) -> list[Prediction]:
        if self.engine is None:
            raise InputError(f"{method.name} needs a model")
        requests = [PromptRequest(one.item.question, one.documents) for one in asked]
        images = self._shown([one.item for one in asked])
        decoding = {} if method.decoding is None else {"decoding": method.decoding}
        answers = self.engine.generate(
            requests,
            images,
            policy=method.policy,
            max_new_tokens=self.max_new_tokens,
            **decoding,
        )
        weighed: list[Likelihoods] = [()] * len(asked)
        if self.weighs_options and has_likelihoods(method.policy, method.decoding):
            options = [one.options for one in asked]
            weighed = [
                option_likelihoods(self.engine, *each, method.policy)
                for each in zip(requests, images, options, strict=True)
            ]
        return [
            replace(_prediction(method, one, answer), likelihoods=likelihoods)
            for one, answer, likelihoods in zip(asked, answers, weighed, strict=True)
        ]

    def _voted(self, method: Method, data: EmbeddedSet, row: int) -> Prediction:
        """Answer by vote; where nobody can vote, the question counts as not answered."""
        ballot, documents = cast("Voters", method.ranking).ballot(data, row)
        if ballot is None:
            question = data.questions[row].question_id
            reason = f"{method.name}: no pair answers it"
            self.left_out[method.name, question] = LeftOut(question, reason)
            return _prediction(method, Asked.of(method, data, row), None)
        item = data.questions[row]
        key = method.name, item.question_id, item.patient_id, data.golds[row]
        shares = ballot.answer, ballot.p_yes, ballot.p_no
        return Prediction(*key, *shares, documents, task=data.task)

    def _shown(self, items: Sequence[GoldQuestion]) -> list[Image]:
        """Load the images of a batch; one that several rows ask about is loaded once."""
        keys = [image_key(item) for item in items]
        images = {key: self._images[key] for key in keys if key in self._images}
        for key, item in zip(keys, items, strict=True):
            if key not in images:
                images[key] = load_image(item.image, what="query image")
        self._images = images
        return [images[key] for key in keys]


def at_once(batch_size: int) -> int:
    """Return how many questions an engine is asked at once, to sort them into batches."""
    return _BATCHES_AT_ONCE * batch_size


def _prediction(method: Method, asked: Asked, answer: Any) -> Prediction:
    key = method.name, asked.item.question_id, asked.item.patient_id, asked.gold
    if answer is None:
        return Prediction(*key, text="", task=asked.task)
    told = answer.text, answer.p_yes, answer.p_no, answer.document_ids
    return Prediction(*key, *told, task=asked.task)
