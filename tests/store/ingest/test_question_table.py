"""Tables of training questions: what becomes a question, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion, digest_of, read_questions
from mrrag_llamaindex.store.pair import Skipped

HEAD = "question_id,image,question,answer,patient_id\n"


def read(folder: Path, content: str, name: str = "q.csv", **options) -> list:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return list(read_questions(path, **options))


def test_row_becomes_a_question_with_all_that_is_its_own(tmp_path):
    text = "question_id,image,question,answer,patient_id,study_id,pair_id,age\n"
    [found] = read(tmp_path, text + " 01 ,a.png,Is there a nodule? ,Yes,007,s1,p1,50\n")
    expected = (str(tmp_path / "a.png"), "Is there a nodule?", "Yes", "007", "s1", "p1")
    assert found == GoldQuestion("01", *expected)
    assert found.exclusion() == Exclusion({"p1"}, {"007"}, {"s1"})


def test_jsonl_with_other_names_and_another_image_folder(tmp_path):
    row = {"id": 12, "file": "a.png", "q": "Nodule?", "answer": "no", "subject": 7}
    columns = {"question_id": "id", "image": "file", "question": "q", "patient_id": "subject"}
    [found] = read(tmp_path, json.dumps(row), "q.jsonl", columns=columns, images="/data")
    assert found == GoldQuestion("12", "/data/a.png", "Nodule?", "no", "7")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",a.png,Q?,yes,p", "question_id is empty"),
        ("q,,Q?,yes,p", "has no image"),
        ("q,a.png, ,yes,p", "the question is empty"),
        ("q,a.png,Q?,,p", "the answer is empty"),
        ("q,a.png,Q?,yes,", "own pair"),
        ("q,a.png,Q?,yes", "4 cells"),
    ],
)
def test_row_that_is_no_question_is_named_and_reading_goes_on(tmp_path, row, reason):
    skipped, good = read(tmp_path, HEAD + row + "\ngood,b.png,Q?,no,p2\n")
    assert isinstance(skipped, Skipped)
    assert skipped.row == 1
    assert reason in skipped.reason
    assert "a.png" not in skipped.reason
    assert "Q?" not in skipped.reason
    assert good.question_id == "good"


def test_second_row_of_the_same_question_id_is_refused(tmp_path):
    first, second = read(tmp_path, HEAD + "q,a.png,Q?,yes,p\nq,b.png,R?,no,p\n")
    assert first.question == "Q?"
    assert second == Skipped(2, "q", "row 1 has the same question_id")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("q.csv", "question_id,image,question\n", "no column 'answer'"),
        ("q.csv", "", "empty"),
        ("q.txt", HEAD, "csv"),
    ],
)
def test_table_that_cannot_be_used_is_refused_at_once(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        list(read_questions(path))


def test_column_can_be_named_only_for_a_role(tmp_path):
    with pytest.raises(InputError, match="'report'"):
        read(tmp_path, HEAD, columns={"report": "x"})
    with pytest.raises(InputError, match="no column 'mrn'"):
        read(tmp_path, HEAD, columns={"patient_id": "mrn"})


def test_digest_changes_with_whatever_a_record_depends_on():
    base = ("q", "a.png", "Q?", "yes", "p", "s", "r")
    digests = {digest_of([GoldQuestion(*base)])}
    for place in (0, 2, 3, 4, 5, 6):
        changed = [*base]
        changed[place] += "x"
        digests.add(digest_of([GoldQuestion(*changed)]))
    assert len(digests) == 7
    assert digest_of([GoldQuestion(*base)]) in digests
