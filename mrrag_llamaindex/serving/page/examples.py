"""Films to begin with, where the server runs on synthetic studies: none of a real patient."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass

from mrrag_llamaindex.phantom.corpus import make_corpus
from mrrag_llamaindex.phantom.demo import PATIENTS, SEED

COUNT = 5


@dataclass(frozen=True)
class Example:
    """A synthetic film, a question about it, and its truth.

    Attributes
    ----------
    question : str
    truth : str
        ``"yes"`` or ``"no"``.
    png : bytes
    """

    question: str
    truth: str
    png: bytes


@functools.cache
def phantom_examples(seed: int = SEED) -> tuple[Example, ...]:
    """Return questions about patients who are not in the demo's store, each of another finding.

    The first is that of ``mrrag demo``.
    """
    queries = make_corpus(seed, patients=PATIENTS, queries=50, profiles=100).queries
    first = {query.finding: query for query in reversed(queries)}
    examples = []
    for finding in sorted(first)[:COUNT]:
        query = first[finding]
        file = io.BytesIO()
        query.study.image.save(file, "PNG")
        truth = "yes" if query.answer else "no"
        examples.append(Example(query.question, truth, file.getvalue()))
    return tuple(examples)
