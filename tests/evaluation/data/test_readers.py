"""Data sets on disk: what is read, what is listed as a problem, and that nothing leaks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.readers import read_data
from mrrag_llamaindex.evaluation.data.readers.vqa_rad import read_all_questions

_spec = importlib.util.spec_from_file_location(
    "layout_files", Path(__file__).with_name("layout_files.py")
)
files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(files)

THREE = pytest.mark.parametrize("data", ["iu-xray", "mimic-cxr", "fairvlmed"])


def kinds(found) -> dict[str, int]:
    return found.problem_counts


@THREE
def test_layout_is_read_with_owner_and_without_the_image_mark(tmp_path, data):
    files.draw(tmp_path, data, [1, 2, 3])
    files.write(
        tmp_path,
        data,
        [files.question_row(data, 1, 7, "Yes."), files.question_row(data, 1, 8, "No, clear.")],
        [files.report_row(data, n) for n in (2, 3)],
    )
    found = read_data(data, tmp_path)
    first = found.questions[0]
    assert first.question == "Is finding 7 there?"
    assert first.question_id == "7"
    assert Path(first.image).is_file()
    assert found.labels == {"7": "yes", "8": "no"}
    assert [pair.pair_id for pair in found.pairs] == ["study-2", "study-3"]
    assert found.pairs[0].report == "Own report of patient 2."
    expected = {"iu-xray": "1", "mimic-cxr": "10000001", "fairvlmed": "00001"}[data]
    assert first.patient_id == expected
    assert all(pair.patient_id and pair.study_id for pair in found.pairs)
    assert found.problems == ()


@THREE
def test_own_report_is_never_evidence_even_where_it_is_stored(tmp_path, data):
    """Through the store itself: the own report is the best match of all, and does not come."""
    import numpy as np

    from mrrag_llamaindex.mcr.score import FusionWeights
    from mrrag_llamaindex.store.hits import PairRecord
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.store.schema import StoreSchema

    files.draw(tmp_path, data, [1, 2, 3])
    other = files.report_row(data, 1, id="same-patient")
    reports = [files.report_row(data, n) for n in (1, 2, 3)] + [other]
    files.write(tmp_path, data, [files.question_row(data, 1, 1, "Yes")], reports)
    found = read_data(data, tmp_path)
    assert len(found.pairs) == 4
    exclude = found.questions[0].exclusion()
    assert "study-1" in exclude.pair_ids
    vectors = np.eye(4, dtype=np.float32)
    near = np.array([[0.98, 0.14, 0.1, 0.05]], dtype=np.float32)
    near /= np.linalg.norm(near)
    by_id = {"study-1": 0, "study-2": 1, "study-3": 2, "same-patient": 0}
    rows = np.stack([vectors[by_id[pair.pair_id]] for pair in found.pairs])
    store = PairStore.create("memory", StoreSchema("t", "t", 4))
    store.upsert(list(found.pairs), rows, rows)
    weights = FusionWeights(1, 1, 1)
    free = store.query(near[0], near[0], weights, 4)
    assert {hit.pair_id for hit in free[:2]} == {"study-1", "same-patient"}
    kept = store.query(near[0], near[0], weights, 4, exclude)
    assert [hit.pair_id for hit in kept] == ["study-2", "study-3"]
    # Each name alone keeps it out, too.
    for pair in found.pairs:
        same = pair.pair_id in ("study-1", "same-patient")
        study = {} if pair.study_id is None else {"study_id": pair.study_id}
        assert exclude.excludes(PairRecord(pair_id="x", patient_id=pair.patient_id)) is same
        assert exclude.excludes(PairRecord(pair_id="x", metadata=study)) is same


@THREE
def test_rows_that_cannot_be_used_are_counted_and_named(tmp_path, data):
    files.draw(tmp_path, data, [1, 2])
    row = files.question_row
    files.write(
        tmp_path,
        data,
        [
            row(data, 1, 1, "Yes"),
            row(data, 1, 1, "No"),
            row(data, 9, 2, "Yes"),
            row(data, 1, 3, "The heart is large."),
            row(data, 1, 4, "Maybe"),
            row(data, 1, 5, ""),
            row(data, 1, 6, True),
            row(data, 1, 7, "No", image="elsewhere.png"),
            row(data, 1, None, "No"),
            "{broken",
            row(data, 1, 8, "Not so."),
        ],
        [
            files.report_row(data, 2),
            files.report_row(data, 2),
            files.report_row(data, 5, report=" "),
            files.report_row(data, 6, image_path="elsewhere.png"),
            files.report_row(data, 7),
            "no object",
        ],
    )
    found = read_data(data, tmp_path)
    assert found.labels == {"1": "yes"}
    assert kinds(found) == {
        "duplicate id": 2,
        "missing image": 1,
        "missing image of a pair": 1,
        "free-text answer": 2,
        "label neither yes nor no": 3,
        "patient unknown": 2,
        "empty report": 1,
        "unusable row": 3,
    }
    assert len(found.questions) + sum("test.jsonl" in p.name for p in found.problems) == 11
    assert {pair.pair_id for pair in found.pairs} == {"study-2", "study-7"}
    text = "\n".join(map(str, found.problems))
    for secret in ("The heart", "Is finding", "Own report", "elsewhere", str(tmp_path)):
        assert secret not in text


def test_cares_gives_every_answer_a_label(tmp_path):
    data = "iu-xray"
    files.draw(tmp_path, data, [1, 2])
    answers = ["There is no effusion.", "Maybe", "Yes, but no edema"]
    rows = [files.question_row(data, 1, n, text) for n, text in enumerate(answers)]
    files.write(tmp_path, data, rows, [files.report_row(data, 2)])
    assert read_data(data, tmp_path, rule="cares").labels == {"0": "no", "1": "yes", "2": "no"}
    assert read_data(data, tmp_path).labels == {"2": "yes"}


@THREE
def test_absolute_paths_of_the_authors_are_ignored(tmp_path, data):
    files.draw(tmp_path, data, [1, 2])
    far = "/home/author/data/x/" + files.SHAPES[data].format(n=2)
    row = files.report_row(data, 2, image_path=far, image_root="/home/author")
    files.write(tmp_path, data, [files.question_row(data, 1, 1, "Yes")], [row])
    [pair] = read_data(data, tmp_path).pairs
    assert Path(pair.image) == tmp_path / files.FOLDERS[data] / files.SHAPES[data].format(n=2)


def test_fields_and_path_that_disagree_are_no_pair(tmp_path):
    data = "mimic-cxr"
    files.draw(tmp_path, data, [1, 2])
    reports = [
        files.report_row(data, 2),
        files.report_row(data, 3, subject_id=10000001),
        files.report_row(data, 4, study_id="s1"),
    ]
    files.write(tmp_path, data, [files.question_row(data, 1, 1, "Yes")], reports)
    found = read_data(data, tmp_path)
    assert [pair.pair_id for pair in found.pairs] == ["study-2"]
    assert kinds(found) == {"patient unknown": 2}


@pytest.mark.parametrize("spelling", ["reference_report", "reference_reports"])
def test_both_spellings_of_the_reference_reports(tmp_path, spelling):
    data = "iu-xray"
    files.draw(tmp_path, data, [1, 2])
    texts = ["Clear lungs.", "Own report  of patient 1.", "Large heart."]
    rows = [
        files.question_row(data, 1, 1, "Yes", **{spelling: texts, "retrieve_k": 3}),
        files.question_row(data, 1, 2, "Yes", **{spelling: "One."}, retrieve_k=2),
        files.question_row(data, 1, 3, "Yes", reference_report=["a"], reference_reports=["b"]),
        files.question_row(data, 1, 4, "Yes"),
    ]
    files.write(tmp_path, data, rows, [files.report_row(data, 2)])
    found = read_data(data, tmp_path)
    assert found.references == {"1": ("Clear lungs.", "Large heart."), "2": ("One.",)}
    assert kinds(found) == {"reference reports": 3}
    assert len(found.questions) == 4


def test_fundus_label_is_a_fact_and_notes_are_not_read(tmp_path):
    data = "fairvlmed"
    files.draw(tmp_path, data, [1, 2, 3])
    reports = [files.report_row(data, 2), files.report_row(data, 3)]
    files.write(tmp_path, data, [files.question_row(data, 1, 1, "Yes")], reports)
    found = read_data(data, tmp_path)
    assert found.facts == {"study-2": {"glaucoma": False}, "study-3": {"glaucoma": True}}
    assert all("never read" not in str(pair) for pair in found.pairs)


def test_what_is_not_found_is_said_with_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"data/test/iuxray_test.jsonl.*questions="):
        read_data("iu-xray", tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_data("iu-xray", tmp_path / "absent")
    with pytest.raises(InputError, match="there are: iu-xray"):
        read_data("chexpert", tmp_path)
    files.draw(tmp_path, "iu-xray", [1])
    row = files.question_row("iu-xray", 1, 1, "Maybe")
    files.write(tmp_path, "iu-xray", [row], [files.report_row("iu-xray", 1)])
    with pytest.raises(InputError, match="1 x label neither"):
        read_data("iu-xray", tmp_path)


def test_files_can_be_named(tmp_path):
    data = "iu-xray"
    files.draw(tmp_path / "pictures", data, [1, 2])
    (tmp_path / "root").mkdir()
    (tmp_path / "q.jsonl").write_text(json.dumps(files.question_row(data, 1, 1, "Yes")))
    (tmp_path / "r.json").write_text(json.dumps([files.report_row(data, 2)]))
    found = read_data(
        data,
        tmp_path / "root",
        questions=tmp_path / "q.jsonl",
        reports=tmp_path / "r.json",
        images=tmp_path / "pictures" / "iu_xray" / "images",
    )
    assert (len(found.questions), len(found.pairs), found.problems) == (1, 1, ())


def test_vqa_rad(tmp_path):
    folder = tmp_path / "VQA_RAD Image Folder"
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / "a.jpg").write_bytes(b"not opened here")
    rows = [
        {"qid": 1, "image_name": "a.jpg", "question": "Q?", "answer": "Yes"},
        {"qid": "2", "image_name": "a.jpg", "question": "Q?", "answer": "no", "answer_type": "C "},
        {"qid": 3, "image_name": "a.jpg", "question": "Q?", "answer": "no", "answer_type": "OPEN "},
        {"qid": 4, "image_name": "a.jpg", "question": "Q?", "answer": 5},
        {"qid": 5, "image_name": "../a.jpg", "question": "Q?", "answer": "no"},
        {"qid": 1, "image_name": "a.jpg", "question": "Q?", "answer": "no"},
        {"qid": 6, "image_name": "a.jpg", "question": "Q?", "answer": "left"},
    ]
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    found = read_data("vqa-rad", tmp_path)
    assert found.labels == {"1": "yes", "2": "no"}
    assert found.pairs == ()
    assert kinds(found) == {
        "label neither yes nor no": 2,
        "free-text answer": 1,
        "missing image": 1,
        "duplicate id": 1,
    }


def rad_row(number, image, answer, **more):
    return {"qid": number, "image_name": image, "question": "Q?", "answer": answer, **more}


def test_vqa_rad_takes_its_pairs_from_the_training_questions(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"not opened here")
    training = [
        rad_row(1, "a.jpg", "yes"),
        rad_row(2, "b.jpg", "Left lung", answer_type="OPEN"),
        rad_row(3, "c.jpg", "no"),
        rad_row(4, "b.jpg", 2, answer_type="OPEN"),
    ]
    test = [rad_row(1, "a.jpg", "no"), rad_row(9, "b.jpg", "axial", answer_type="OPEN")]
    (tmp_path / "trainset.json").write_text(json.dumps(training))
    (tmp_path / "testset.json").write_text(json.dumps(test))
    found = read_data("vqa-rad", tmp_path)
    assert found.labels == {"1": "no"}
    pairs = {pair.pair_id: pair for pair in found.pairs}
    assert set(pairs) == {"train-1", "train-2", "train-4"}
    assert pairs["train-2"].report == "Q? Left lung"
    assert pairs["train-2"].metadata == {"answer": "Left lung"}
    assert pairs["train-4"].metadata == {"answer": "2"}
    # Its own image is kept from it by the patient's name.
    excluded = found.questions[0].exclusion()
    assert [name for name, pair in pairs.items() if pair.patient_id in excluded.patient_ids] == [
        "train-1"
    ]
    assert kinds(found) == {"missing image": 1, "free-text answer": 1}
    both = read_all_questions(tmp_path)
    assert [item.question_id for item in both.training] == ["1", "2", "4"]
    assert [item.question_id for item in both.test] == ["1", "9"]


def test_vqa_rad_in_one_file_is_divided_by_its_marks(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"not opened here")
    rows = [
        rad_row(1, "a.jpg", "yes", phrase_type="freeform"),
        rad_row(2, "b.jpg", "no", phrase_type="test_freeform"),
        rad_row(3, "b.jpg", "no", phrase_type="test_para"),
    ]
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    found = read_data("vqa-rad", tmp_path)
    assert set(found.labels) == {"2", "3"}
    assert [pair.pair_id for pair in found.pairs] == ["train-1"]
    both = read_all_questions(tmp_path)
    assert [len(both.training), len(both.test)] == [1, 2]


def test_vqa_rad_without_training_questions_says_what_it_looked_for(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not opened here")
    (tmp_path / "testset.json").write_text(json.dumps([rad_row(1, "a.jpg", "yes")]))
    with pytest.raises(InputError, match=r"trainset\.json"):
        read_all_questions(tmp_path)


def test_own_tables(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not opened here")
    (tmp_path / "questions.csv").write_text(
        "question_id,image,question,answer,patient_id,study_id\n"
        "1,a.png,Q?,yes,p1,\n1,a.png,Q?,no,p1,\n2,b.png,Q?,no,p1,\n3,a.png,Q?,dunno,p1,\n"
        "4,a.png,Q?,no,,s1\n"
    )
    (tmp_path / "pairs.csv").write_text(
        "pair_id,image,report,patient_id\nx,a.png,R.,p1\ny,b.png,R.,p2\nz,a.png,,p3\nx,a.png,R.,p\n"
    )
    found = read_data("table", tmp_path)
    assert found.labels == {"1": "yes"}
    assert [pair.pair_id for pair in found.pairs] == ["x", "y"]
    assert kinds(found) == {
        "duplicate id": 2,
        "missing image": 1,
        "missing image of a pair": 1,
        "label neither yes nor no": 1,
        "patient unknown": 1,
        "empty report": 1,
    }


def test_digest_changes_with_what_answers_depend_on_and_not_with_the_place(tmp_path):
    data = "iu-xray"
    digests = []
    changes = [{}, {}, {"answer": "No"}, {"question": "Else?"}]
    for place, change in enumerate(changes):
        root = tmp_path / str(place)
        files.draw(root, data, [1, 2])
        row = files.question_row(data, 1, 1, "Yes") | change
        files.write(root, data, [row], [files.report_row(data, 2)])
        digests.append(read_data(data, root).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@THREE
def test_the_layout_of_mmed_rag(tmp_path, data):
    """Questions in data/test/vqa, reports in a folder of the speciality."""
    files.draw(tmp_path, data, [1, 2])
    files.write(tmp_path, data, [files.question_row(data, 1, 1, "Yes")], [])
    name = files.FILES[data]
    vqa = tmp_path / "data/test/vqa"
    vqa.mkdir()
    (tmp_path / f"data/test/{name}_test.jsonl").rename(vqa / f"{name}_test.jsonl")
    (tmp_path / f"data/training/retriever/{name}_train.json").unlink()
    folder = {"fairvlmed": "ophthalmology"}.get(data, "radiology")
    reports = tmp_path / "data/training/retriever" / folder / "some_train_9.json"
    reports.parent.mkdir()
    row = files.report_row(data, 2, image_root="/home/author/data")
    reports.write_text(json.dumps([row]))
    found = read_data(data, tmp_path)
    assert (found.labels, [pair.pair_id for pair in found.pairs]) == ({"1": "yes"}, ["study-2"])
    (vqa / f"{name}_test.jsonl").rename(vqa / f"{name}_questions.jsonl")
    assert read_data(data, tmp_path).labels == {"1": "yes"}
    (reports.parent / "other_train.json").write_text("[]")
    with pytest.raises(InputError, match=r"several files.*other_train\.json, some_train_9\.json"):
        read_data(data, tmp_path)


@THREE
def test_answers_alone_need_neither_images_nor_reports(tmp_path, data):
    rows = [files.question_row(data, 1, 1, "Yes"), files.question_row(data, 2, 2, "No")]
    files.write(tmp_path, data, rows, [])
    name = files.FILES[data]
    (tmp_path / f"data/training/retriever/{name}_train.json").unlink()
    with pytest.raises(InputError):
        read_data(data, tmp_path)
    found = read_data(data, tmp_path, answers_only=True)
    assert found.labels == {"1": "yes", "2": "no"}
    assert (found.pairs, found.problems) == ((), ())


def test_answers_alone_of_other_layouts(tmp_path):
    (tmp_path / "testset.json").write_text(json.dumps([rad_row(1, "gone.jpg", "yes")]))
    assert read_data("vqa-rad", tmp_path, answers_only=True).labels == {"1": "yes"}
    (tmp_path / "questions.csv").write_text(
        "question_id,image,question,answer,patient_id\n1,gone.png,Q?,no,p1\n"
    )
    assert read_data("table", tmp_path, answers_only=True).labels == {"1": "no"}


def test_every_row_counts_under_the_published_rule(tmp_path):
    """None is left out: a free text, an empty answer, one that is no text, an id that is taken."""
    data = "iu-xray"
    files.draw(tmp_path, data, [1, 2])
    answers = ["Yes", "The report does not specify.", "", None, "It is normal."]
    rows = [files.question_row(data, 1, n, text) for n, text in enumerate(answers)]
    rows.append(files.question_row(data, 1, 0, "No"))
    files.write(tmp_path, data, rows, [files.report_row(data, 2)])
    found = read_data(data, tmp_path, rule="cares")
    assert found.labels == {
        **{"0": "yes", "1": "no", "2": "yes", "3": "yes", "4": "yes"},
        "0#2": "no",
    }
    assert kinds(found) == {"no answer, a yes under cares": 2}
    strict = read_data(data, tmp_path)
    assert strict.labels == {"0": "yes"}
