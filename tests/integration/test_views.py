"""Views of one study are one document of evidence, and leave together."""

from __future__ import annotations

import pytest

from mrrag_llamaindex import MRRAGIndex, Pair
from mrrag_llamaindex.integration.answers.ask import ask
from mrrag_llamaindex.store.hits import Exclusion
from tests.integration.conftest import study_image

QUESTION = "Is there a pleural effusion?"


@pytest.fixture
def index(towers, tmp_path):
    """Two views of each of four studies, then 20 views of a fifth."""
    pairs = []
    for study in range(4):
        pairs += [view(tmp_path, study, number) for number in range(2)]
    pairs += [view(tmp_path, 4, number) for number in range(20)]
    return MRRAGIndex.from_pairs(pairs, towers)


def view(folder, study: int, number: int) -> Pair:
    path = folder / f"{study}-{number}.png"
    study_image(100 * study + number).save(path)
    report = f"There is {('effusion', 'nodule', 'edema', 'fracture', 'pneumothorax')[study]}."
    name = f"s{study}" if number == 0 else f"s{study}:{number + 1}"
    return Pair(str(path), report, name, f"patient-{study}", {"study_id": f"s{study}"})


def test_each_study_is_shown_once_and_names_its_other_views(index, llm, tmp_path) -> None:
    # One study alone has more views than there are candidates: the search goes on.
    result = ask(index, llm, tmp_path / "0-0.png", QUESTION, candidates=6)
    rows = result.sources()
    studies = [row["pair_id"].partition(":")[0] for row in rows]
    assert sorted(studies) == ["s0", "s1", "s2", "s3", "s4"]
    shown = {name for row in rows for name in (row["pair_id"], *row["views"])}
    assert {"s0", "s0:2"} <= shown
    ranks = [row["score"] for row in rows]
    assert ranks == sorted(ranks, reverse=True)


def test_an_excluded_pair_takes_its_other_views_along(index, tmp_path) -> None:
    retriever = index.as_retriever(exclude=Exclusion(pair_ids={"s0:2"}))
    image = str(tmp_path / "0-0.png")
    assert not any(hit.study_id == "s0" for hit in retriever.hits(QUESTION, image))
