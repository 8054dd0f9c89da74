"""The questions and pairs that are evaluated on: synthetic, or one's own copy; embedded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mrrag_llamaindex.commands.progress import Advance, progress_bar
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import (
    UNREAD_TEXT,
    UNREADABLE,
    Asked,
    EvaluationSet,
    Problem,
)
from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
from mrrag_llamaindex.evaluation.data.finding_table import read_findings
from mrrag_llamaindex.evaluation.data.parsing import leading
from mrrag_llamaindex.evaluation.data.readers import read_data
from mrrag_llamaindex.evaluation.data.set_embedding import embed_set
from mrrag_llamaindex.evaluation.tasks.yes_no import YES_NO
from mrrag_llamaindex.phantom.sets import describing_set
from mrrag_llamaindex.phantom.sets import evaluation_set as phantom
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.protocol import DualTower


@dataclass(frozen=True)
class OwnCopy:
    """Where one's own copy of a data set lies: the options of these names."""

    data: str
    root: Path
    question_file: Path | None
    report_file: Path | None
    images: Path | None
    facts: Path | None

    def read(
        self,
        rule: str = "leading",
        *,
        asked: Asked | None = None,
        answers_only: bool = False,
    ) -> EvaluationSet:
        """Read it; ``asked`` says what a question of the task is, and ``rule`` what every row is.

        With ``answers_only`` neither images nor pairs are needed.
        """
        data = read_data(
            self.data,
            self.root,
            questions=self.question_file,
            reports=self.report_file,
            images=self.images,
            rule=rule,
            answers_only=answers_only,
            asked=asked,
        )
        if self.facts is None:
            return data
        if not data.pairs:
            raise InputError(
                f"{self.data} brings no reports: name a table of pairs with --report-file"
            )
        return replace(data, facts=read_findings(self.facts, {p.pair_id for p in data.pairs}))


def check_root(data: str, root: Path | None) -> Path:
    """Return the folder of a copy; raises `InputError` unless it is named."""
    if root is None:
        raise InputError(f"--data {data} needs --root, the folder of your copy")
    return root


def check_copy(data: str, root: Path | None, towers: str | None) -> Path:
    """Return the folder of a copy; raises `InputError` unless it and its towers are named."""
    if root is None or towers is None:
        raise InputError(f"--data {data} needs --root, the folder of your copy, and --towers")
    return root


def phantom_sets(seeds: int, questions: int | None, task: str) -> list[EvaluationSet]:
    """Return the set to learn on, the set to tune on, and those to score."""
    all_seeds = (phantom.FIT_SEED, phantom.TUNE_SEED, *range(seeds))
    if task == YES_NO.name:
        count = questions or phantom.QUESTIONS
        return [phantom.phantom_set(seed, questions=count) for seed in all_seeds]
    count = questions or describing_set.QUESTIONS
    return [describing_set.describing_set(seed, task, questions=count) for seed in all_seeds]


@contextmanager
def embedded(
    sets: Sequence[EvaluationSet], towers: DualTower, out: Path | None = None
) -> Iterator[tuple[list[EmbeddedSet], PairStore]]:
    """Embed sets, each into a store in memory or below ``out``; also yields the first store."""
    where = "memory" if out is None else out / "store"
    total = sum(len(item.pairs) + len(item.questions) for item in sets)
    before = 0
    with ExitStack() as stack:
        stores, embedded_sets = [], []
        for _ in sets:
            store = PairStore.open_or_create(where, StoreSchema.of(towers))
            stores.append(stack.enter_context(store))
        with progress_bar("vectors") as advance:
            for item, store in zip(sets, stores, strict=True):
                show = partial(_show_from, advance, before, total)
                embedded_sets.append(embed_set(item, towers, store, progress=show))
                before += len(item.pairs) + len(item.questions)
        yield embedded_sets, stores[0]


def _show_from(advance: Advance, before: int, total: int, done: int, _: int) -> None:
    advance(before + done, total)


def unreadable(sets: Sequence[EmbeddedSet]) -> list[Problem]:
    """Return what the towers could not read: left out, or found by its image alone."""
    return [
        Problem(kind, f"{data.name} {item.identifier!r}", item.reason)
        for data in sets
        for kind, items in ((UNREADABLE, data.left_out), (UNREAD_TEXT, data.unread))
        for item in items
    ]


def neither_yes_nor_no(sets: Sequence[EvaluationSet], rule: str) -> list[str]:
    """Say how many gold answers the published rule labels that begin with neither yes nor no."""
    if rule != "cares":
        return []
    golds = [item.answer for data in sets for item in data.questions]
    count = sum(leading(answer) == "other" for answer in golds)
    if not count:
        return []
    return [
        f"cares reads {count} of {len(golds)} gold answers that begin with neither yes nor no, and "
        "calls each a yes unless its first sentence has a no or a not: what is asked there may "
        "have no such answer"
    ]


def unread_references(sets: Sequence[EvaluationSet]) -> list[str]:
    """Say that reports which the question file brings along are not used."""
    names = {item.question_id for data in sets for item in data.questions}
    count = sum(name in names for data in sets for name in data.references)
    if not count:
        return []
    return [
        f"{count} questions bring reports that another system retrieved; no row reads them, each "
        "method retrieves its own"
    ]
