"""Views of one study are one document of evidence, and leave together."""

from __future__ import annotations

import pytest

from mrrag_llamaindex import MRRAGIndex, Pair
from mrrag_llamaindex.errors import InputError
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


@pytest.fixture
def visits(towers, tmp_path):
    """Twelve studies of one patient, whose reports differ, and two of each of four others."""
    pairs = []
    for patient, studies in (("often", 12), *((f"p{n}", 2) for n in range(4))):
        for number in range(studies):
            path = tmp_path / f"{patient}-{number}.png"
            study_image(number).save(path)
            report = f"There is an effusion. {'No edema. ' * number}"
            own = {"study_id": f"{patient}/{number}"}
            pairs.append(Pair(str(path), report, f"{patient}-{number}", patient, own))
    return MRRAGIndex.from_pairs(pairs, towers)


def shown(index, image, **options) -> list[str]:
    nodes = index.as_retriever(image=str(image), **options).retrieve(QUESTION)
    return [item.node.metadata["patient_id"] for item in nodes]


def test_one_per_patient_finds_as_many_others(visits, tmp_path) -> None:
    image = tmp_path / "often-0.png"
    assert len(shown(visits, image, similarity_top_k=9)) == 9  # by study, as ever
    # One patient has more documents than there are candidates: the search goes on.
    found = shown(visits, image, similarity_top_k=5, candidates=5, one_per="patient")
    assert sorted(found) == ["often", "p0", "p1", "p2", "p3"]
    assert len(shown(visits, image, similarity_top_k=9, one_per="patient")) == 5
    assert len(shown(visits, image, similarity_top_k=20, one_per="none")) == 20


def test_the_others_of_a_patient_are_named(visits, tmp_path) -> None:
    retriever = visits.as_retriever(image=str(tmp_path / "p0-0.png"), one_per="patient")
    for item in retriever.retrieve(QUESTION):
        others = item.node.metadata["mrrag"].get("views", [])
        patient = item.node.metadata["patient_id"]
        assert {name.rpartition("-")[0] for name in others} <= {patient}


def test_a_query_engine_and_ask_take_it(visits, llm, tmp_path) -> None:
    result = ask(visits, llm, tmp_path / "often-0.png", QUESTION, one_per="patient")
    patients = [item.node.metadata["patient_id"] for item in result.source_nodes]
    assert len(set(patients)) == len(patients) == 5


def test_one_per_something_else_is_refused(visits) -> None:
    with pytest.raises(InputError, match="one_per"):
        visits.as_retriever(one_per="image")
