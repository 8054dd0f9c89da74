"""Questions with their true labels, the pairs to retrieve from, and what could not be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.parsing import rule_named
from mrrag_llamaindex.files.digests import json_digest
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion, digest_of
from mrrag_llamaindex.store.pair import Pair, Skipped

MISSING_IMAGE = "missing image"
"""Of a question, which cannot be asked without."""

PAIR_IMAGE = "missing image of a pair"
"""The pair stays as a report."""

NO_ANSWER = "no answer, a yes under cares"
UNREAD_TEXT = "text that the towers cannot read"
DUPLICATE_ID = "duplicate id"
NEITHER = "label neither yes nor no"
FREE_TEXT = "free-text answer"
EMPTY_REPORT = "empty report"
NO_OWNER = "patient unknown"
UNREADABLE = "unusable row"
UNKNOWN_ID = "unknown id"
REFERENCES = "reference reports"
CLOSED = "closed question"
NO_OPTION = "answer that is no option"
OTHER_LANGUAGE = "question in another language"
NO_SECTION = "report without the section"


@dataclass(frozen=True)
class Problem:
    """A row that is not in the data set, or not whole, and why.

    Parameters
    ----------
    kind : str
        One of this module's constants; problems are counted by it.
    name : str
        The row's id in quotes, or ``row 3``, with the file it stands in.
    reason : str
        For a person; no question, report or path.
    """

    kind: str
    name: str
    reason: str

    def __str__(self) -> str:
        """Return ``kind, name: reason``."""
        return f"{self.kind}, {self.name}: {self.reason}"

    @classmethod
    def of_skipped(cls, skipped: Skipped, file: str) -> Problem:
        """Turn a row that a table reader left out into a problem."""
        kind = DUPLICATE_ID if "same question_id" in skipped.reason else UNREADABLE
        return cls(kind, row_name(file, skipped.row, skipped.pair_id), skipped.reason)


@dataclass(frozen=True)
class Asked:
    """What a task takes of a data set.

    Parameters
    ----------
    task : str
        Its name.
    gold : callable
        From a row's answer to the gold label of its question, or to the kind of a problem and its
        reason: such a row is no question of the task.
    question : str
        What is asked where a data set has no questions of its own.
    """

    task: str
    gold: Callable[[str], str | tuple[str, str]]
    question: str = ""


def yes_or_no(rule: str = "leading") -> Asked:
    """Return what the task of yes or no takes.

    Parameters
    ----------
    rule : str
        ``leading``: the answer's first word; an answer with neither is a problem, free text if it
        has several words. ``cares``: the published rule, which gives every row a label.
    """
    verdict = rule_named(rule)

    def gold(answer: str) -> str | tuple[str, str]:
        label = verdict(answer)
        if label == "other":
            kind = FREE_TEXT if len(answer.split()) > 1 else NEITHER
            return kind, "the answer begins with neither yes nor no"
        return label

    return Asked("yes-no", gold)


@dataclass(frozen=True)
class EvaluationSet:
    """What a model is evaluated on.

    Parameters
    ----------
    name : str
        Of the data set, e.g. ``iu-xray``.
    questions : tuple of GoldQuestion
        Those that can be scored: each has a label.
    pairs : tuple of Pair
        The evidence to retrieve from; what is a question's own is kept from it by its
        ``exclusion()``.
    labels : mapping of str to str
        By question id: ``"yes"`` or ``"no"``; for another task its gold answer, letter or report.
    problems : tuple of Problem
        What was left out or is not whole, in the order of the files.
    facts : mapping
        By pair id: findings that the report states, by name. May be empty.
    references : mapping
        By question id: reports that another system retrieved for it, where its row brings them.
    task : str
        What is asked, see `evaluation.tasks`.
    options : mapping
        By question id: the texts of its options A, B, ...; only of the task ``choice``.

    Raises
    ------
    InputError
        If an id is there twice, a question has no label, or a fact or label is of nothing.
    """

    name: str
    questions: tuple[GoldQuestion, ...]
    pairs: tuple[Pair, ...]
    labels: Mapping[str, str]
    problems: tuple[Problem, ...] = ()
    facts: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    task: str = "yes-no"
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = _unique((item.question_id for item in self.questions), "question")
        if ids != set(self.labels):
            raise InputError(f"{self.name}: the labels are not exactly those of the questions")
        wrong = sorted({value for value in self.labels.values() if value not in ("yes", "no")})
        if wrong and self.task == "yes-no":
            raise InputError(f"{self.name}: a label is {wrong[0]!r}; it must be 'yes' or 'no'")
        if not set(self.facts) <= _unique((item.pair_id for item in self.pairs), "pair"):
            raise InputError(f"{self.name}: there are facts of a pair that is not there")

    @property
    def problem_counts(self) -> dict[str, int]:
        """Problems of each kind, most frequent first."""
        return dict(Counter(item.kind for item in self.problems).most_common())

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with any question, label, report, or owner of a pair.

        Pixels and the place of the images do not count: a data set may be moved.
        """
        labels = [self.labels[item.question_id] for item in self.questions]
        pairs = [[p.pair_id, p.patient_id, p.study_id, p.report] for p in self.pairs]
        return json_digest([self.name, digest_of(self.questions), labels, pairs], 16)


def labelled(
    name: str,
    questions: Iterable[GoldQuestion],
    pairs: Sequence[Pair],
    problems: Iterable[Problem] = (),
    *,
    asked: Asked | None = None,
    file: str = "questions",
    answers_only: bool = False,
    facts: Mapping[str, Mapping[str, bool]] | None = None,
    references: Mapping[str, tuple[str, ...]] | None = None,
    options: Mapping[str, tuple[str, ...]] | None = None,
) -> EvaluationSet:
    """Label the questions by their gold answers; those that cannot be scored become problems.

    Parameters
    ----------
    name
        Of the data set.
    questions
        With unique ids.
    pairs
        The evidence to retrieve from.
    problems
        What the readers left out; those found here come after them.
    asked
        What the task takes; by default `yes_or_no`.
    file
        How problems name the table that the questions come from.
    answers_only
        A question whose image is not there is kept, since only answers are scored.
    facts
        By pair id: findings that the report states. None: none are known.
    references
        By question id: reports that another system retrieved; those of questions that cannot be
        scored are left out.
    options
        By question id, see `EvaluationSet`; likewise.

    Raises
    ------
    InputError
        If nothing is left to be scored.
    """
    asked = asked or yes_or_no()
    usable: list[GoldQuestion] = []
    labels: dict[str, str] = {}
    all_problems = list(problems)
    is_file = cache(Path.is_file)  # several questions ask about one image
    for item in questions:
        where = f"{file} {item.question_id!r}"
        label = asked.gold(item.answer)
        if isinstance(label, tuple):
            all_problems.append(Problem(label[0], where, label[1]))
        elif (
            not answers_only
            and isinstance(item.image, (str, Path))
            and not is_file(Path(item.image))
        ):
            all_problems.append(
                Problem(MISSING_IMAGE, where, "its image is not where it should be")
            )
        else:
            usable.append(item)
            labels[item.question_id] = label
    if not usable:
        counts = Counter(item.kind for item in all_problems).most_common(3)
        why = ", ".join(f"{count} x {kind}" for kind, count in counts) or "the file has no rows"
        raise InputError(f"{name}: no question of {file} can be scored ({why})")
    return EvaluationSet(
        *(name, tuple(usable), tuple(pairs), labels, tuple(all_problems), facts or {}),
        references={key: texts for key, texts in (references or {}).items() if key in labels},
        task=asked.task,
        options={key: texts for key, texts in (options or {}).items() if key in labels},
    )


def row_name(file: str, row: int, identifier: str | None = None) -> str:
    """Return how a problem names a row of a file: by its number, and its id if it has one."""
    return f"{file} row {row}" + ("" if identifier is None else f" ({identifier!r})")


def _unique(names: Iterable[str], what: str) -> set[str]:
    counts = Counter(names)
    for name, count in counts.items():
        if count > 1:
            raise InputError(f"{what} {name!r} is there twice")
    return set(counts)
