"""`mrrag noise` on one's own copy: a real curve, everything left out named, one line if wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands.console import OneLineErrors
from mrrag_llamaindex.commands.evaluate import noise_study
from mrrag_llamaindex.commands.evaluate.noise import noise
from mrrag_llamaindex.commands.evaluate.noise_data import DataOptions, data_noise
from mrrag_llamaindex.commands.evaluate.noise_study import NoiseOptions
from mrrag_llamaindex.commands.models import ModelOptions
from mrrag_llamaindex.evaluation.noise import study as noise_tuning
from mrrag_llamaindex.evaluation.noise.data import OWN_LABELS, OWN_REPORT
from mrrag_llamaindex.generation.checkpoints import loading
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.profile_store import PROFILES_VARIABLE, keep_profile
from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.phantom.corpus import make_corpus
from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.sets.evaluation_set import facts_of
from mrrag_llamaindex.phantom.studies import PhantomStudy
from mrrag_llamaindex.towers.loading import load_towers
from tests.evaluation.data import layout_files

pytestmark = pytest.mark.usefixtures("one_thread")

ASKED = 1000
"""Number of the first patient who is asked about."""


def run(*arguments: object):
    app = typer.Typer(cls=OneLineErrors)
    app.command("noise")(noise)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, ["noise", *map(str, arguments)])


def show(root: Path, data: str, number: int, study: PhantomStudy) -> None:
    shape = layout_files.SHAPES[data].format(n=number)
    target = root / layout_files.FOLDERS[data] / shape
    target.parent.mkdir(parents=True, exist_ok=True)
    study.image.save(target)


def write_facts(path: Path, known: dict[str, PhantomStudy]) -> None:
    names = [finding.name for finding in FINDINGS]
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["pair_id", *names])
        for pair_id, study in known.items():
            facts = facts_of(study)
            writer.writerow([pair_id, *(int(facts[n]) if n in facts else "" for n in names)])


def write_copy(root: Path, data: str, patients: int, queries: int, *more: dict) -> Path:
    """Write phantom studies in a data set's layout; each question's own report is there, too."""
    made = make_corpus(21, patients=patients, queries=queries, profiles=4)
    studies = {n + 1: study for n, study in enumerate(made.studies)}
    studies |= {ASKED + n: query.study for n, query in enumerate(made.queries)}
    asked = [
        layout_files.question_row(
            data,
            ASKED + n,
            n,
            "Yes." if query.answer else "No, it is not seen.",
            question=f"{query.question}\n<image>",
        )
        for n, query in enumerate(made.queries)
    ]
    reports = []
    for number, study in studies.items():
        reports.append(layout_files.report_row(data, number, report=study.report))
        show(root, data, number, study)
    layout_files.write(root, data, [*asked, *more], reports)
    write_facts(root / "facts.csv", {f"study-{n}": study for n, study in studies.items()})
    return root


@pytest.fixture(scope="module")
def iu(tmp_path_factory) -> Path:
    return write_copy(tmp_path_factory.mktemp("iu"), "iu-xray", 24, 105)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_copy(tmp_path_factory.mktemp("small"), "iu-xray", 24, 8)


def given(root: Path, data: str = "iu-xray", /, **changes: object) -> list[object]:
    """Return the arguments of a run on a copy; a change of None leaves an option out."""
    options: dict[str, object] = {
        "--data": data,
        "--root": root,
        "--facts": root / "facts.csv",
        "--model": "phantom",
        "--towers": "phantom",
        "--device": "cpu",
        "--documents": 2,
        "--policies": "ifa",
        "--out": root / "out",
        **{f"--{name.replace('_', '-')}": value for name, value in changes.items()},
    }
    return [part for pair in options.items() if pair[1] is not None for part in pair]


# ---- what comes out


@pytest.fixture(scope="module")
def curve(iu):
    result = run(*given(iu, documents=4, weights="equal", policies="ifa,hard-mask"), "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), result.stderr


@pytest.mark.slow
def test_a_copy_gives_the_curve(curve):
    told, _ = curve
    points = told["points"]
    assert {"policy", "scores", "noise", "accuracy", "ci", "noise_attention"} <= set(points[0])
    assert {(p["policy"], p["scores"], p["noise"]) for p in points} == {
        (policy, scores, level / 4)
        for policy in ("off", "ifa", "hard-mask")
        for scores in ("true", "mcr")
        for level in range(5)
    }
    assert not any(point["adversarial"] for point in points)
    at = {(p["policy"], p["scores"], p["noise"]): p for p in points}
    assert at["off", "true", 0.0]["accuracy"] > 0.75
    assert at["off", "true", 1.0]["accuracy"] < at["off", "true", 0.0]["accuracy"] - 0.1
    assert at["ifa", "true", 0.5]["accuracy"] >= at["off", "true", 0.5]["accuracy"]
    for policy in ("ifa", "hard-mask"):
        shares = [at[name, "true", 0.5]["noise_attention"] for name in (policy, "off")]
        assert shares[0] < shares[1] - 0.1
    assert at["off", "true", 0.0]["noise_attention"] == 0
    assert at["off", "true", 1.0]["noise_attention"] == pytest.approx(1)
    assert told["figure"] == told["figures"][0]
    assert all(Path(path).stat().st_size > 1000 for path in told["figures"])


@pytest.mark.slow
def test_it_says_what_was_done(curve):
    told, stderr = curve
    assert told["data"] == "iu-xray"
    assert "finding labels agree" in told["relevance"]
    assert any("no curve of contradicting" in note for note in told["notes"])
    assert told["n"] + told["tuning"]["n"] == 105 - len(told["problem_list"])
    assert told["tuning"]["n"] >= 30
    assert {row["tried"] for row in told["tuning"]["settings"]} == {15}
    assert told["fusion"]["weights"] == FusionWeights().as_dict()
    assert "equal" in told["fusion"]["labels"]
    assert "critical layers" not in stderr  # the phantom's own are what everyone knows


@pytest.mark.slow
def test_people_read_rule_settings_and_what_was_left_out(small):
    facts = [line for line in (small / "facts.csv").read_text().splitlines() if "1003" not in line]
    fewer = small / "fewer.csv"
    fewer.write_text("\n".join(facts) + "\n")
    result = run(*given(small, facts=fewer))
    assert result.exit_code == 0, result.stderr
    assert "relevant: a report of another patient whose finding labels agree" in result.stdout
    assert "no curve of contradicting documents" in result.stdout
    assert "published settings: 2 validation questions" in result.stdout
    assert f"left out of the data: 1 x {OWN_LABELS}" in result.stdout
    assert "left out: own finding labels unknown, question '3'" in result.stdout
    assert "--weights" in result.stderr  # only the labels' relevance was measured
    assert "mcr " not in result.stdout
    assert "Synthetic studies" not in result.stdout
    assert "iuxray" not in result.stdout.replace(str(small), "")


@pytest.mark.slow
def test_with_plain_attention_alone_nothing_is_chosen_or_won_back(small):
    result = run(*given(small, policies="off"))
    assert result.exit_code == 0, result.stderr
    assert "plain RAG loses" in result.stdout
    assert "won back" not in result.stdout
    assert "settings" not in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("data", ["mimic-cxr", "fairvlmed"])
def test_the_other_layouts(tmp_path, monkeypatch, data):
    monkeypatch.setattr(f"{__name__}.ASKED", 60)  # their numbers have few digits
    root = write_copy(tmp_path, data, 24, 6)
    result = run(*given(root, data), "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["data"] == data
    assert told["n"] + len(told["problem_list"]) <= 6
    assert {point["scores"] for point in told["points"]} == {"true"}
    assert told["fusion"] is None


@pytest.mark.slow
def test_a_table_of_ones_own(tmp_path):
    made = make_corpus(5, patients=24, queries=6, profiles=4)
    with (tmp_path / "pairs.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["pair_id", "image", "report", "patient_id"])
        own = [query.study for query in made.queries]
        for study in (*made.studies, *own):
            study.image.save(tmp_path / f"{study.pair_id}.png")
            row = [study.pair_id, f"{study.pair_id}.png", study.report, study.patient_id]
            writer.writerow(row)
    with (tmp_path / "questions.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["question_id", "image", "question", "answer", "pair_id", "patient_id"])
        for n, query in enumerate(made.queries):
            pair_id = query.study.pair_id if n else ""
            answer = "yes" if query.answer else "no"
            image = f"{query.study.pair_id}.png"
            writer.writerow([n, image, query.question, answer, pair_id, query.study.patient_id])
    write_facts(tmp_path / "facts.csv", {s.pair_id: s for s in (*made.studies, *own)})
    result = run(*given(tmp_path, "table", validation=0), "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["problems"][OWN_REPORT] == 1
    assert told["n"] == 6 - sum(told["problems"].values())
    assert "published settings" in told["tuning"]["note"]
    assert told["tuning"]["settings"][0]["accuracy"] is None
    assert told["tuning"]["settings"][0]["value"] == defaults.STRENGTH
    # The labels of the first question's own report, which is not named among the pairs.
    own_facts = tmp_path / "own.csv"
    write_facts(own_facts, {"0": own[0]})
    own_facts.write_text(own_facts.read_text().replace("pair_id", "question_id"))
    result = run(*given(tmp_path, "table", validation=0, question_facts=own_facts), "--json")
    assert result.exit_code == 0, result.stderr
    more = json.loads(result.stdout)
    assert OWN_REPORT not in more["problems"]
    assert more["n"] == 6 - sum(more["problems"].values())


@pytest.mark.slow
def test_the_readers_problems_are_listed_with_its_own(tmp_path):
    more = [
        layout_files.question_row("iu-xray", ASKED, 0, "Yes."),  # id 0 is there already
        layout_files.question_row("iu-xray", ASKED, 90, "The lungs are hazy."),
        layout_files.question_row("iu-xray", ASKED, 91, "Maybe"),
        layout_files.question_row("iu-xray", 999, 92, "Yes."),
    ]
    root = write_copy(tmp_path, "iu-xray", 24, 6, *more)
    last = root / layout_files.FOLDERS["iu-xray"] / layout_files.SHAPES["iu-xray"]
    Path(str(last).format(n=1)).write_bytes(b"no picture")
    result = run(*given(root), "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    counted = told["problems"]
    assert counted["duplicate id"] == 1
    assert counted["free-text answer"] == 1
    assert counted["label neither yes nor no"] == 1
    assert counted["missing image"] == 1
    assert counted["unusable row"] == 1  # pair study-1, whose image is none
    assert sum(counted.values()) == len(told["problem_list"])


# ---- what must hold


def options(**changes) -> NoiseOptions:
    fields = {
        "policies": ("off", "ifa"),
        "scores": ("true",),
        "documents": 2,
        "seed": 0,
        "count": 300,
        "model": ModelOptions("phantom", "cpu", None, "checkpoint", False),
        "towers": "phantom",
        "batch_size": 8,
    }
    return NoiseOptions(**{**fields, **changes})


def places(root: Path, **changes) -> DataOptions:
    fields = {
        "data": "iu-xray",
        "root": root,
        "facts": root / "facts.csv",
        "question_facts": None,
        "question_file": None,
        "report_file": None,
        "images": None,
        "weights": None,
        "validation": 0.3,
    }
    return DataOptions(**{**fields, **changes})


@pytest.mark.slow
def test_no_patient_is_tuned_on_and_measured_and_none_is_evidence_of_itself(iu, monkeypatch):
    seen = {}
    real_tune, real_measure = noise_tuning.tune, noise_study.measure

    def tune(sweep, questions, *more):
        seen["tuned"] = list(questions)
        return real_tune(sweep, questions, *more)

    def measure(sweep, questions, *more):
        seen["measured"] = list(questions)
        return real_measure(sweep, questions, *more)

    monkeypatch.setattr(noise_tuning, "tune", tune)
    monkeypatch.setattr("mrrag_llamaindex.commands.evaluate.noise_data.measure", measure)
    report = data_noise(options(), places(iu))
    tuned, measured = ({item.patient_id for item in seen[k]} for k in ("tuned", "measured"))
    assert tuned
    assert not tuned & measured
    assert set(report.result.owners) == measured
    assert len(seen["tuned"]) == report.validation["n"]
    made = make_corpus(21, patients=24, queries=105, profiles=4)
    studies = {f"study-{n + 1}": study for n, study in enumerate(made.studies)}
    studies |= {f"study-{ASKED + n}": query.study for n, query in enumerate(made.queries)}
    for item in (*seen["tuned"], *seen["measured"]):
        number = ASKED + int(item.question_id)
        own = facts_of(studies[f"study-{number}"])
        assert item.patient_id == str(number)
        assert item.truth == ("yes" if made.queries[number - ASKED].answer else "no")
        for kind in ("relevant", "irrelevant"):
            for document in getattr(item, kind):
                assert document.document_id != f"study-{number}"
                theirs = facts_of(studies[document.document_id])
                equal = [own[name] == theirs[name] for name in own.keys() & theirs.keys()]
                assert document.text == studies[document.document_id].report
                if kind == "relevant":
                    assert all(equal)
                    assert len(equal) >= 3
                else:
                    assert not all(equal)


@pytest.mark.slow
def test_count_draws_some_of_the_questions(iu):
    report = data_noise(options(count=14), places(iu))
    # 14 of 20, the rest being for validation.
    assert len(report.result.owners) + report.validation["n"] <= 20
    assert len(report.result.owners) > 8
    assert any("20 of " in note for note in report.about["notes"])


@pytest.mark.slow
def test_weights_make_mcrs_scores(small, tmp_path):
    towers = load_towers("phantom")
    first, second = tmp_path / "weights.json", tmp_path / "gated.json"
    FusionWeights(0.0, 1.0, 0.0).save(first, towers_identity=towers.identity)
    QueryGatedWeights.untrained(FusionWeights(), towers.dimension).save(
        second, towers_identity=towers.identity
    )
    found = {}
    for weights in ("equal", first, second):
        result = run(
            *given(small, weights=weights, scores="mcr", validation=0, documents=4), "--json"
        )
        assert result.exit_code == 0, result.stderr
        found[weights] = json.loads(result.stdout)
        assert {point["scores"] for point in found[weights]["points"]} == {"mcr"}
    assert found[first]["fusion"]["weights"]["image_text"] == 0.0
    assert found[first]["fusion"]["labels"] == "as in weights.json"
    assert found[second]["fusion"]["weights"] is None

    def half(weights):
        (value,) = [
            point["noise_attention"]
            for point in found[weights]["points"]
            if (point["policy"], point["noise"]) == ("ifa", 0.5)
        ]
        return value

    assert half("equal") != half(first)
    assert half("equal") == pytest.approx(half(second))  # untrained gates leave the weights equal
    assert "per question" in run(*given(small, weights=second, validation=0)).stdout


@pytest.mark.slow
def test_weights_of_other_towers_are_refused(small, tmp_path):
    path = tmp_path / "weights.json"
    FusionWeights().save(path, towers_identity="others")
    result = run(*given(small, weights=path))
    assert result.exit_code == 2
    assert "towers" in result.stderr


@pytest.mark.slow
def test_layers_that_find_layers_kept_are_used_and_said(small, tmp_path, monkeypatch):
    monkeypatch.setenv(PROFILES_VARIABLE, str(tmp_path))
    keep_profile(load_model("phantom", device="cpu"), (0, 2), "found")
    result = run(*given(small, validation=0), "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["attention_layers"] == [0, 2]
    assert told["tuning"]["settings"][0]["layers"] == [0, 2]
    assert "critical layers 0, 2: as mrrag find-layers found" in result.stderr


@pytest.mark.slow
def test_options_of_loading_reach_the_model(small, monkeypatch):
    given_to = {}
    real = loading.load_model

    def load(model, **how):
        given_to.update(how)
        return real(model, **{**how, "quantization": None, "vision_tower": "checkpoint"})

    monkeypatch.setattr(loading, "load_model", load)
    result = run(
        *given(small, quantization="int8", vision_tower="clip", batch_size=3, validation=0),
        "--allow-pickle",
    )
    assert result.exit_code == 0, result.stderr
    assert given_to == {
        "adapter": None,
        "merge_adapter": False,
        "device": "cpu",
        "backend": "eager",
        "quantization": "int8",
        "vision_tower": "clip",
        "allow_pickle": True,
    }
    assert noise_study.load_sweep(options(batch_size=3)).batch_size == 3


# ---- what is wrong, in one line


def wrong(result, *named: str) -> None:
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for text in named:
        assert text in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"facts": None}, ("--facts", "pair_id", "relevant")),
        ({"root": None}, ("--root",)),
        ({"towers": None}, ("--towers",)),
        ({"scores": "true,mcr"}, ("--weights FILE", "--weights equal")),
        ({"scores": "true", "weights": "equal"}, ("--weights",)),
        ({"documents": 3}, ("odd",)),
    ],
)
def test_wrong_options_are_one_line(small, changes, named):
    wrong(run(*given(small, **changes)), *named)


@pytest.mark.parametrize(
    "option",
    [
        "--root",
        "--question-file",
        "--report-file",
        "--images",
        "--facts",
        "--question-facts",
        "--weights",
    ],
)
def test_the_phantom_takes_no_files(option, tmp_path):
    wrong(run("--data", "phantom", option, tmp_path), option, "own studies")


def test_the_phantom_has_its_own_validation():
    wrong(run("--validation", 0.5), "--validation")


def test_questions_without_own_reports_are_told_the_way_on(tmp_path):
    root = write_copy(tmp_path, "iu-xray", 24, 3)
    stored = root / "data/training/retriever/iuxray_train.json"
    rows = json.loads(stored.read_text())
    stored.write_text(json.dumps([row for row in rows if f"CXR{ASKED}"[:-1] not in str(row)]))
    result = run(*given(root, weights="equal"))
    wrong(result, "3 x own report unknown", "--report-file")
    assert str(tmp_path) not in result.stderr


def test_vqa_rad_needs_reports_and_names_none_of_its_own(tmp_path):
    rows = [{"qid": 1, "image_name": "a.jpg", "question": "Is it?", "answer": "Yes"}]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    (tmp_path / "facts.csv").write_text("pair_id,edema\n1,1\n")
    study = make_corpus(1, patients=1, queries=0, profiles=1).studies[0]
    study.image.save(tmp_path / "a.jpg")
    result = run(*given(tmp_path, "vqa-rad", weights="equal"))
    wrong(result, "--report-file")
    (tmp_path / "pairs.csv").write_text("pair_id,image,report,patient_id\n1,,Edema.,a\n")
    result = run(*given(tmp_path, "vqa-rad", weights="equal", report_file=tmp_path / "pairs.csv"))
    wrong(result, "1 x own report unknown", "--question-facts")
