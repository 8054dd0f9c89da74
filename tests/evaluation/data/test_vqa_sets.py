"""SLAKE, PathVQA, PMC-VQA, OmniMedVQA and annotation files: tiny layouts, bad rows counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import ClassVar

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.readers import read_data
from mrrag_llamaindex.evaluation.tasks.registry import task_named


def asked(task: str, section: str = "report"):
    return task_named(task).asked("leading", section)


def images(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not opened here")


def slake(qid: int, image: str, answer: object, **more: object) -> dict[str, object]:
    return {"qid": qid, "img_name": image, "question": "Which organ?", "answer": answer} | more


class TestSlake:
    @pytest.fixture
    def root(self, tmp_path):
        images(tmp_path / "imgs", "xmlab1/source.jpg", "xmlab2/source.jpg")
        test = [
            slake(1, "xmlab1/source.jpg", "Liver", q_lang="en", answer_type="OPEN"),
            slake(2, "xmlab1/source.jpg", "Yes", q_lang="en"),
            slake(3, "xmlab1/source.jpg", "肝", q_lang="zh"),
            slake(4, "xmlab9/source.jpg", "Liver"),
            slake(5, "../secret.jpg", "Liver"),
            slake(1, "xmlab1/source.jpg", "Heart"),
            slake(6, "xmlab1/source.jpg", None),
            slake(7, "xmlab1/source.jpg", "Lung", question=" "),
        ]
        training = [slake(1, "xmlab2/source.jpg", "Heart"), slake(8, "xmlab1/source.jpg", "Liver")]
        (tmp_path / "test.json").write_text(json.dumps(test))
        (tmp_path / "train.json").write_text(json.dumps(training))
        return tmp_path

    BAD: ClassVar = {
        "question in another language": 1,
        "missing image": 2,
        "duplicate id": 1,
        "label neither yes nor no": 1,
        "unusable row": 1,
    }

    def test_open_and_closed_halves(self, root):
        found = read_data("slake", root, asked=asked("open"))
        assert found.labels == {"1": "Liver"}
        assert found.task == "open"
        assert found.problem_counts == {**self.BAD, "closed question": 1}
        closed = read_data("slake", root)
        assert closed.labels == {"2": "yes"}
        assert closed.problem_counts == {**self.BAD, "label neither yes nor no": 2}

    def test_own_image_is_never_evidence(self, root):
        found = read_data("slake", root, asked=asked("open"))
        assert [pair.report for pair in found.pairs] == ["Which organ? Heart", "Which organ? Liver"]
        own = found.questions[0].exclusion().patient_ids
        assert own == {found.pairs[1].patient_id}
        assert found.pairs[0].patient_id not in own

    def test_a_task_that_it_does_not_have_is_refused_by_name(self, root):
        with pytest.raises(
            InputError, match="'slake' has nothing to ask for --task choice; it has"
        ):
            read_data("slake", root, asked=asked("choice"))


def test_path_vqa_rows_have_no_ids_and_images_no_ending(tmp_path):
    images(tmp_path / "images", "test/test_0001.jpg", "train/train_0001.jpg")
    rows = [
        {"image": "test_0001", "question": "What is present?", "answer": "mitosis"},
        {"image": "test_0001", "question": "Is it?", "answer": "no"},
        {"image": "test_0002", "question": "What?", "answer": "necrosis"},
    ]
    for part, content in (("test", rows), ("train", [{**rows[0], "image": "train_0001"}])):
        path = tmp_path / "qas" / part / f"{part}_qa.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    found = read_data("path-vqa", tmp_path, asked=asked("open"))
    assert found.labels == {"test_qa-1": "mitosis"}
    assert found.problem_counts == {"missing image": 1, "closed question": 1}
    assert found.pairs[0].pair_id == "train-train_qa-1"


def test_pmc_vqa_in_both_releases(tmp_path):
    images(tmp_path / "images", "PMC1_F1.jpg", "PMC1_F2.jpg", "PMC2_F1.jpg")
    head = ["Figure_path", "Question", "Answer", "Choice A", "Choice B", "Choice C", "Choice D"]
    rows = [
        ["PMC1_F1.jpg", "Which plane?", "axial", " A:sagittal ", " B:axial ", " C:coronal ", "D:x"],
        ["PMC1_F2.jpg", "Which plane?", "C", "sagittal", "axial", "coronal", ""],
        ["PMC1_F1.jpg", "Which plane?", "oblique", "sagittal", "axial", "coronal", "x"],
        ["PMC1_F1.jpg", "Which plane?", "A", "sagittal", "", "", ""],
        ["PMC9_F1.jpg", "Which plane?", "A", "sagittal", "axial", "", ""],
    ]
    for name, content in (("test.csv", rows), ("train.csv", [["PMC2_F1.jpg", *rows[0][1:]]])):
        with (tmp_path / name).open("w", newline="") as handle:
            csv.writer(handle).writerows([head, *content])
    found = read_data("pmc-vqa", tmp_path, asked=asked("choice"))
    assert found.labels == {"test-1": "B", "test-2": "C"}
    assert found.options["test-1"] == ("sagittal", "axial", "coronal", "x")
    assert found.options["test-2"] == ("sagittal", "axial", "coronal")
    assert found.questions[0].question == "Which plane?\nA. sagittal\nB. axial\nC. coronal\nD. x"
    assert found.questions[0].patient_id == found.questions[1].patient_id == "PMC1"
    assert found.problem_counts == {"answer that is no option": 2, "missing image": 1}
    assert found.pairs[0].report == "Which plane? axial"
    assert found.pairs[0].metadata["answer"] == "axial"


def test_omnimedvqa_reads_every_file_of_its_folder(tmp_path):
    images(tmp_path, "Images/a/1.png", "Images/b/2.png")
    folder = tmp_path / "QA_information" / "Open-access"
    folder.mkdir(parents=True)

    def row(name: str, image: str, answer: str, **more: object) -> dict[str, object]:
        options = {"option_A": "CT", "option_B": "MR", "option_C": None}
        fields = {"question_id": name, "image_path": image, "gt_answer": answer}
        return {**fields, "question": "Which modality?", **options, **more}

    (folder / "a.json").write_text(json.dumps([row("a_1", "Images/a/1.png", "MR")]))
    second = [row("b_1", "Images/b/2.png", "CT"), row("a_1", "Images/b/2.png", "CT")]
    second += [row("b_2", "Images/b/2.png", "CT", option_B="CT")]
    (folder / "b.json").write_text(json.dumps(second))
    found = read_data("omnimedvqa", tmp_path, asked=asked("choice"))
    assert found.labels == {"a_1": "B", "b_1": "A"}
    assert found.pairs == ()
    assert found.problem_counts == {"duplicate id": 1, "answer that is no option": 1}


def test_vqa_rad_open_half(tmp_path):
    images(tmp_path, "a.jpg")
    base = {"image_name": "a.jpg", "question": "Where?"}
    rows = [
        {"qid": 1, "answer": "left", "answer_type": "OPEN ", **base},
        {"qid": 2, "answer": "yes", "answer_type": "CLOSED", **base},
        {"qid": 3, "answer": 5, "answer_type": "OPEN", **base},
        {"qid": 4, "answer": "Yes", "answer_type": "OPEN", **base},
    ]
    (tmp_path / "testset.json").write_text(json.dumps(rows))
    found = read_data("vqa-rad", tmp_path, asked=asked("open"))
    assert found.labels == {"1": "left", "3": "5"}
    assert found.problem_counts == {"closed question": 2}


class TestAnnotations:
    NAMES: ClassVar = {
        "iu-xray": ("CXR{n}_IM-000{n}/0.png", "iu_xray/images", {}),
        "mimic-cxr": ("p10/p1000000{n}/s5000000{n}/x.jpg", "files", {"subject_id": 10000000}),
    }

    def write(self, root: Path, data: str, **tests: object) -> None:
        shape, folder, fields = self.NAMES[data]

        def row(n: int, report: object, **more: object) -> dict[str, object]:
            own = {name: base + n for name, base in fields.items()}
            paths = {"image_path": [shape.format(n=n)], "report": report}
            return {"id": f"study{n}", **paths, **own, **more}

        images(root / folder, *(shape.format(n=n) for n in (1, 2, 3)))
        test = [
            row(1, "FINDINGS: Clear. IMPRESSION: Normal."),
            row(2, " "),
            row(9, "Clear."),
            row(1, "Clear."),
            {"id": "x", "image_path": ["elsewhere.png"], "report": "Clear."},
            {"image_path": [shape.format(n=1)], "report": "Clear."},
            "no object",
        ]
        training = [row(3, "Cardiomegaly."), row(8, "Edema."), row(4, "")]
        parts = {"train": training, "test": test, **tests}
        (root / "annotation.json").write_text(json.dumps(parts))

    @pytest.mark.parametrize("data", ["iu-xray", "mimic-cxr"])
    def test_test_part_is_asked_and_training_part_is_evidence(self, tmp_path, data):
        self.write(tmp_path, data)
        found = read_data(f"{data}-reports", tmp_path, asked=asked("report"))
        assert list(found.labels) == ["study1"]
        assert found.questions[0].question == "Write the radiology report of this study."
        assert [pair.report for pair in found.pairs] == ["Cardiomegaly.", "Edema."]
        assert found.pairs[1].image is None
        assert found.problem_counts == {
            "empty report": 2,
            "unusable row": 2,
            "missing image of a pair": 1,
            "missing image": 1,
            "duplicate id": 1,
            "patient unknown": 1,
        }
        assert not any("Clear" in str(problem) for problem in found.problems)

    def test_a_section_alone(self, tmp_path):
        self.write(tmp_path, "iu-xray")
        found = read_data("iu-xray-reports", tmp_path, asked=asked("report", "impression"))
        assert found.labels == {"study1": "Normal."}
        assert "impression" in found.questions[0].question

    def test_what_is_no_annotation_file_is_refused(self, tmp_path):
        (tmp_path / "annotation.json").write_text("[]")
        with pytest.raises(InputError, match="no annotation file"):
            read_data("iu-xray-reports", tmp_path, asked=asked("report"))
