"""Ask one question without any generator: the retrieved pairs' own answers decide by vote."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.inputs.images import QuestionImages, read_image
from mrrag_llamaindex.integration.inputs.vectors import study_vectors
from mrrag_llamaindex.integration.tickets.nodes import METADATA_KEY
from mrrag_llamaindex.mcr.score import ALL_TERMS
from mrrag_llamaindex.mcr.vote import (
    ANSWER_COLUMNS,
    Ballot,
    Vote,
    answer_of,
    voters,
)
from mrrag_llamaindex.store.same_image import pairs_of_image

if TYPE_CHECKING:
    from llama_index.core.schema import NodeWithScore

    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.integration.retriever import MRRAGRetriever

MOST_SEARCHED = 1000
"""Pairs that are looked through, at most, for some whose answers count."""

_NAMED = 8


@dataclass(frozen=True)
class VoteResult:
    """One question, what the vote answered, and the pairs that voted.

    Attributes
    ----------
    question : str
    ballot : Ballot
    source_nodes : list of NodeWithScore
        Those that voted, best first.
    answers : tuple of str
        What each of them answered.
    searched : int
        Pairs that were looked at; those without an answer that counts did not vote.
    temperature : float
    seconds : dict of str to float
    own : tuple of str
        Pairs of this very image in the store: neither they nor what else is known to be of their
        study or patient was searched.
    """

    question: str
    ballot: Ballot
    source_nodes: list[NodeWithScore]
    answers: tuple[str, ...]
    searched: int
    temperature: float
    seconds: dict[str, float]
    own: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The answer."""
        return self.ballot.answer

    def sources(self) -> list[dict[str, Any]]:
        """Return the facts of every pair that voted, best first: as those of an `AskResult`."""
        rows = []
        for item, answer, weight in zip(
            self.source_nodes, self.answers, self.ballot.weights, strict=True
        ):
            facts = item.node.metadata[METADATA_KEY]
            terms = {name: facts[name] for name in ALL_TERMS if name in facts}
            rows.append(
                {
                    "pair_id": item.node.node_id,
                    "views": facts.get("views", []),
                    "score": facts["score"],
                    **terms,
                    "probability": facts.get("probability"),
                    "answer": answer,
                    "weight": weight,
                }
            )
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Return the answer and its sources as plain values for JSON."""
        return {
            "question": self.question,
            "answer": self.text,
            "by": "vote",
            "p_yes": self.ballot.p_yes,
            "p_no": self.ballot.p_no,
            "shares": dict(self.ballot.shares),
            "sources": self.sources(),
            "abstained": False,
            "searched": self.searched,
            "own": list(self.own),
            "temperature": self.temperature,
            "seconds": dict(self.seconds),
        }


def ask_by_vote(
    index: MRRAGIndex,
    image: QuestionImages,
    question: str,
    *,
    documents: int = defaults.VOTE_DOCUMENTS,
    temperature: float = defaults.VOTE_TEMPERATURE,
    column: str | None = None,
    **options: Any,
) -> VoteResult:
    """Answer ``question`` about ``image`` by a vote of the retrieved pairs.

    Where the image itself is stored, its pairs would answer their own question: they do not vote,
    nor do others of their study or patient.

    Parameters
    ----------
    index : MRRAGIndex
    image : path, bytes, PIL.Image.Image, QueryImage, or a list of these: one study
    question : str
        One that asks for yes or no is answered by the pairs that answered one of the two.
    documents : int
        Pairs that vote.
    temperature : float
        See `Vote`.
    column : str, optional
        Metadata that holds a pair's answer; by default ``answer``, else ``label``.
    **options
        Those of `MRRAGRetriever`, but for ``similarity_top_k``.

    Raises
    ------
    EvidenceError
        If no pair that was found holds an answer.
    InputError
        If a number is out of range.
    """
    if documents < 1:
        raise InputError(f"documents is {documents}; at least one pair has to vote")
    try:
        vote = Vote(temperature)
    except ValueError as error:
        raise InputError(str(error)) from None
    started = time.perf_counter()
    retriever = index.as_retriever(similarity_top_k=documents, **options)
    read = read_image(image)
    own = _without_own(retriever, read)
    nodes = _found(retriever, question, read, documents, column)
    answers = [answer_of(item.node.metadata, column) for item in nodes]
    places = voters(question, answers)[:documents]
    if not places:
        raise _without_answers(nodes, column)
    voting = [nodes[place] for place in places]
    given = tuple(str(answers[place]) for place in places)
    ballot = vote.count([float(item.score or 0.0) for item in voting], given)
    seconds = {"retrieve": time.perf_counter() - started}
    return VoteResult(question, ballot, voting, given, len(nodes), temperature, seconds, own)


def _without_own(retriever: MRRAGRetriever, image: QueryImage | None) -> tuple[str, ...]:
    """Exclude the pairs of the question's own image and their patients; return the pairs' ids."""
    if image is None:
        return ()
    vectors, _ = study_vectors(retriever.towers, (), image)
    assert vectors is not None
    own = [pair for vector in vectors for pair in pairs_of_image(retriever.store, vector)]
    ids = list(dict.fromkeys(pair.pair_id for pair in own))
    patients = [pair.patient_id for pair in own if pair.patient_id is not None]
    exclude = retriever.exclude
    retriever.exclude = replace(
        exclude,
        pair_ids=exclude.pair_ids.union(ids),
        patient_ids=exclude.patient_ids.union(patients),
    )
    return tuple(ids)


def _found(
    retriever: MRRAGRetriever,
    question: str,
    image: QueryImage | None,
    documents: int,
    column: str | None,
) -> list[NodeWithScore]:
    """Retrieve until enough pairs have an answer that counts, or there are no more."""
    while True:
        nodes = retriever.nodes_about(question, image)
        answers = [answer_of(item.node.metadata, column) for item in nodes]
        enough = len(voters(question, answers)) >= documents
        asked = retriever.similarity_top_k
        if enough or len(nodes) < asked or asked >= MOST_SEARCHED:
            return nodes
        retriever.similarity_top_k = min(2 * asked, MOST_SEARCHED)


def _without_answers(nodes: list[NodeWithScore], column: str | None) -> EvidenceError:
    wanted = " or ".join(map(repr, ANSWER_COLUMNS if column is None else (column,)))
    known = sorted({key for item in nodes for key in item.node.metadata} - {METADATA_KEY})
    names = ", ".join(known[:_NAMED]) + (", ..." if len(known) > _NAMED else "")
    return EvidenceError(
        f"the pairs hold no answers, so there is nothing to vote on: none of the {len(nodes)} "
        f"found has {wanted} in its metadata ({f'it has: {names}' if names else 'it has none'}). "
        "Ingest a table with a column of answers or labels, or name the column: column= in Python, "
        "--answer-column"
    )
