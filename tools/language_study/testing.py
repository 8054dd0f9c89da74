"""The two studies on the test part, asked once with the settings that were chosen before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.mcr.vote import Vote
from tools.language_study.asking import Asking, Plan, plain, right, steered
from tools.language_study.questions import DOCUMENTS, Case, Questions
from tools.language_study.reader import Prompts, load_reader
from tools.language_study.settings import POLICIES, policy_of

EVERYTHING = ("training", "validation", "evidence", "test")
STORE = ("training", "validation", "evidence")
VOTERS = (DOCUMENTS, 15)


def ask_test_part(
    data: Path,
    folder: Path,
    seed: int,
    levels: Sequence[int] = range(DOCUMENTS),
    *,
    retrieved: bool = True,
) -> Path:
    """Ask the test part with one seed's reader; what was asked before stays.

    Parameters
    ----------
    data, folder : Path
    seed : int
        Of the reader.
    levels : sequence of int
        Irrelevant statements of four, where relevance is known.
    retrieved : bool
        Whether the study of retrieved statements is run, too.

    Returns
    -------
    Path
        For every study, level and method, which questions were answered rightly.
    """
    kept = folder / f"answers-{seed}.json"
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    questions = Questions(data, seed)
    asking = Asking(load_reader(folder / f"adapter-{seed}"), Prompts())
    found: dict[str, Any] = {"known": {}, "retrieved": {}}
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))

    def keep(study: str, level: int, cases: list[Case], rows: dict[str, list[bool]]) -> None:
        found[study]["images"] = [case.asked.image for case in cases]
        found[study][str(level)] = rows
        write_atomically(kept, json.dumps(found))
        means = {name: round(float(np.mean(row)), 3) for name, row in rows.items()}
        print(f"seed {seed}, {study}, {level}: {means}", flush=True)

    able = questions.answerable("test", DOCUMENTS)
    for irrelevant in levels:
        if str(irrelevant) in found["known"]:
            continue
        # The draw of noise is that of the study, the same for every reader.
        cases = [questions.known_case(i, irrelevant, 0, EVERYTHING) for i in able]
        rows = _asked(asking, cases, settings, steering=irrelevant > 0)
        if irrelevant:
            (odds,) = asking.ask([_relevant_only(case) for case in cases], [plain])
            rows["relevant only"] = right(odds, cases).tolist()
        keep("known", irrelevant, cases, rows)
    if not retrieved or found["retrieved"]:
        return kept
    asked = questions.of("test")
    cases = [questions.retrieved_case(i, STORE) for i in asked]
    rows = _asked(asking, cases, settings, steering=True)
    for count in VOTERS:
        pool = [questions.retrieved_case(i, STORE, count) for i in asked]
        rows[f"vote of {count}"] = [_vote(case) for case in pool]
    for place in range(DOCUMENTS):
        # Whether the score knows which statement to believe.
        told = [case.documents[place].answer == case.asked.answer for case in cases]
        rows[f"statement {place + 1} alone"] = told
    majority = max(("yes", "no"), key=[case.asked.answer for case in cases].count)
    rows[f"always {majority}"] = [case.asked.answer == majority for case in cases]
    keep("retrieved", DOCUMENTS, cases, rows)
    return kept


def _asked(
    asking: Asking, cases: list[Case], settings: dict[str, Any], *, steering: bool
) -> dict[str, list[bool]]:
    variants: dict[str, Plan] = {"plain": plain}
    if steering:
        for name in POLICIES:
            variants[name] = steered(policy_of(name, settings[name]["chosen"]))
        chosen = settings["ifa"]["chosen"]
        other = {"question": "to_end", "to_end": "question"}[chosen["question_rows"]]
        variants[f"ifa, {other}"] = steered(policy_of("ifa", {**chosen, "question_rows": other}))
    answers = right(asking.ask(cases, list(variants.values())), cases)
    return {name: row.tolist() for name, row in zip(variants, answers, strict=True)}


def _relevant_only(case: Case) -> Case:
    kept = [i for i, score in enumerate(case.scores) if score == max(case.scores)]
    return Case(
        case.asked,
        tuple(case.documents[i] for i in kept),
        tuple(case.scores[i] for i in kept),
    )


def _vote(case: Case) -> bool:
    ballot = Vote().count(case.scores, [document.answer for document in case.documents])
    return ballot.answer == case.asked.answer
