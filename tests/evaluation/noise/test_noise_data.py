"""The noise study on one's own data: who is relevant by labels, and who is never offered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet
from mrrag_llamaindex.evaluation.data.findings import FindingLabels
from mrrag_llamaindex.evaluation.noise.data import (
    DOES_NOT_FIT,
    FEW_IRRELEVANT,
    FEW_RELEVANT,
    OWN_LABELS,
    OWN_REPORT,
    draw_data_trials,
    own_labels,
    sift,
)
from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep, Variant
from mrrag_llamaindex.evaluation.noise.result import OFF
from mrrag_llamaindex.evaluation.noise.study import published
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.store.pair import STUDY_KEY, Pair
from tests.evaluation.data.hand_set import hand_set

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("effusion", "edema", "nodule", "mass")


def labels(text: str) -> dict[str, bool]:
    """Read "+-?." as present, absent, and twice unknown, in the order of `NAMES`."""
    pairs = zip(NAMES, text, strict=True)
    return {name: sign == "+" for name, sign in pairs if sign in "+-"}


@pytest.fixture(scope="module")
def engine() -> LlavaEngine:
    loaded = load_model(defaults.PHANTOM, device="cpu", backend="eager")
    return LlavaEngine(loaded, max_new_tokens=2)


# ---- agreement


def compared(own: str, *others: str) -> list[str]:
    facts = {f"p{n}": labels(text) for n, text in enumerate(others)}
    table = FindingLabels.of(list(facts), facts | {"all": labels("++++")})
    relevant, irrelevant = table.compared(labels(own))
    assert not (relevant & irrelevant).any()
    return [
        "relevant" if r else "irrelevant" if i else "neither"
        for r, i in zip(relevant, irrelevant, strict=True)
    ]


def test_agreement_by_hand():
    assert compared(
        "+--.",
        "+--+",  # the three that both know are equal
        "+-..",  # equal, but two are too few
        "+-+.",  # one differs
        "-...",  # one in common is enough to differ
        "...+",  # nothing in common
        "....",
        "+---",
    ) == ["relevant", "neither", "irrelevant", "irrelevant", "neither", "neither", "relevant"]


def test_a_table_with_fewer_findings_needs_all_of_them():
    facts = {"a": {"glaucoma": True}, "b": {"glaucoma": False}, "c": {}}
    table = FindingLabels.of(["a", "b", "c"], facts)
    relevant, irrelevant = table.compared({"glaucoma": True})
    assert relevant.tolist() == [True, False, False]
    assert irrelevant.tolist() == [False, True, False]


def test_reports_that_say_nothing_never_agree():
    relevant, irrelevant = FindingLabels.of(["a"], {"a": {}}).compared({})
    assert not relevant.any()
    assert not irrelevant.any()


# ---- which questions can be asked at all


def pair(name: str, patient: str | None = None, study: str | None = None) -> Pair:
    metadata = {} if study is None else {STUDY_KEY: study}
    return Pair(None, f"Report {name}.", name, patient or f"patient {name}", metadata)


def asked(name: str, **own: str) -> GoldQuestion:
    return GoldQuestion(name, Image.new("RGB", (32, 32)), "Is it?", "yes", **own)


def small_set(questions, pairs, facts) -> EvaluationSet:
    gold = {item.question_id: "yes" for item in questions}
    known = {name: labels(text) for name, text in facts.items()}
    return EvaluationSet("hand", tuple(questions), tuple(pairs), gold, facts=known)


def sifted(data: EvaluationSet, documents: int, **given: dict[str, bool]):
    return sift(data, documents, own_labels(data, given))


FACTS = {"own": "+++.", "r1": "+++-", "r2": "++++", "i1": "-++.", "i2": "..-.", "none": "...."}


def test_every_reason_is_named_and_pairs_without_labels_are_not_needed():
    pairs = [pair(name) for name in FACTS]
    pairs += [pair("poor"), pair("odd")]
    facts = FACTS | {"poor": "+...", "odd": "+-+-"}
    questions = [
        asked("good", pair_id="own"),
        asked("stranger", pair_id="elsewhere"),
        asked("nobody", patient_id="someone"),
        asked("unlabelled", pair_id="none"),
        asked("poor", pair_id="poor"),
        asked("odd", pair_id="odd"),
    ]
    kept, problems = sifted(small_set(questions, pairs, facts), 2)
    assert [item.question_id for item in kept.questions] == ["good"]
    assert [item.pair_id for item in kept.pairs] == ["own", "r1", "r2", "i1", "i2", "poor", "odd"]
    assert [(item.kind, item.name) for item in problems] == [
        (OWN_REPORT, "question 'stranger'"),
        (OWN_REPORT, "question 'nobody'"),
        (OWN_LABELS, "question 'unlabelled'"),
        (OWN_LABELS, "question 'poor'"),
        (FEW_RELEVANT, "question 'odd'"),
    ]
    assert "1 finding labels of its own report are known, 3 are needed" in str(problems[3])


def test_too_few_irrelevant():
    pairs = [pair(name) for name in ("own", "r1", "r2", "i1")]
    facts = {name: FACTS[name] for name in ("own", "r1", "r2", "i1")}
    with pytest.raises(InputError, match=f"1 x {FEW_IRRELEVANT}.*fewer --documents"):
        sifted(small_set([asked("q", pair_id="own")], pairs, facts), 2)


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ({"pair_id": "own", "patient_id": "P"}, {"patient": "P"}),
        ({"pair_id": "own", "study_id": "S"}, {"study": "S"}),
    ],
)
def test_own_pair_study_and_patient_do_not_count(own, theirs):
    """Three agree: itself, one of its patient or study, one of another."""
    facts = {"own": "+++.", "r1": "+++.", "r2": "+++.", "i1": "---.", "i2": "---."}
    pairs = [pair(n, **theirs) if n in ("own", "r1") else pair(n) for n in facts]
    data = small_set([asked("q", **own)], pairs, facts)
    with pytest.raises(InputError, match=FEW_RELEVANT):
        sifted(data, 2)
    others = [pair(name) for name in facts]
    assert sifted(small_set([asked("q", **own)], others, facts), 2)[1] == []


def test_without_any_own_report_the_way_on_is_said():
    pairs = [pair(name) for name in FACTS]
    with pytest.raises(InputError, match=r"1 x own report unknown.*--report-file"):
        sifted(small_set([asked("q", patient_id="x")], pairs, FACTS), 2)


def test_labels_of_a_question_stand_in_for_its_report_and_go_before_its_pair():
    pairs = [pair(name) for name in FACTS]
    questions = [asked("q", patient_id="x"), asked("other", pair_id="own")]
    data = small_set(questions, pairs, FACTS)
    kept, problems = sifted(data, 2, q=labels("+++."), other=labels("-+..."[:4]))
    assert [item.question_id for item in kept.questions] == ["q"]
    assert [(item.kind, item.name) for item in problems] == [(OWN_LABELS, "question 'other'")]


# ---- which documents are drawn

AXES = np.eye(8)


def embedded(count: int = 8, **changes):
    """p0 is the question's own; p1 to p3 agree with it, p4 is its image; p5 to p7 differ."""
    pairs = [(AXES[n] if n != 4 else AXES[0], AXES[n]) for n in range(count)]
    q_image = AXES[0]
    q_text = np.arange(1.0, 9.0) / 10
    facts = {f"p{n}": labels("+++." if n < 5 else "+-+.") for n in range(count)}
    made = hand_set(
        pairs,
        [(q_image, q_text)],
        asked=[{"pair_id": "p0", "patient_id": "patient 0"}],
        facts=facts,
        **changes,
    )
    return replace(made, reports=tuple(["No effusion."] * count))


def drawn_trials(data, engine, **options):
    own = {item.question_id: data.facts[item.pair_id] for item in data.questions}
    return draw_data_trials(data, engine, own, **options)


def test_documents_are_drawn_by_labels_and_scored_by_mcr(engine):
    seen: dict[str, set[str]] = {"relevant": set(), "irrelevant": set()}
    orders = set()
    for seed in range(20):
        trials = drawn_trials(
            embedded(), engine, documents=2, weights=FusionWeights(2.0, 3.0, 5.0), seed=seed
        )
        assert trials.problems == ()
        (item,) = trials.questions.values()
        assert (item.question_id, item.patient_id, item.truth) == ("q0", "patient 0", "yes")
        assert item.contradicting == ()
        assert isinstance(item.image, PreparedImage)
        orders.add(item.order)
        for kind, names in seen.items():
            offered = getattr(item, kind)
            assert len({document.document_id for document in offered}) == 2
            names |= {document.document_id for document in offered}
            for document in offered:
                place = int(document.document_id[1])
                # Image and report are the pair's own axis: only <q_t, d_t> is not zero.
                assert document.score == pytest.approx(5.0 * (place + 1) / 10)
    # Neither the own pair p0 nor p4, the same image under another patient.
    assert seen == {"relevant": {"p1", "p2", "p3"}, "irrelevant": {"p5", "p6", "p7"}}
    assert orders == {(0, 1), (1, 0)}


def test_own_patient_and_study_are_never_drawn(engine):
    patients = [f"patient {n}" for n in range(8)]
    patients[1] = "patient 0"
    for seed in range(8):
        trials = drawn_trials(embedded(patients=patients), engine, documents=2, seed=seed)
        (item,) = trials.questions.values()
        assert {d.document_id for d in item.relevant} == {"p2", "p3"}
        assert all(d.score is None for d in (*item.relevant, *item.irrelevant))


def test_what_only_the_image_tells_is_a_reason_too(engine):
    patients = [f"patient {n}" for n in range(8)]
    patients[1] = patients[2] = "patient 0"
    with pytest.raises(InputError, match=FEW_RELEVANT):
        drawn_trials(embedded(patients=patients), engine, documents=2)


@pytest.mark.parametrize(("sentences", "always"), [(700, False), (1400, True)])
def test_documents_that_do_not_fit_are_counted(engine, sentences, always):
    """Of 2,048 tokens two reports take 1,400 each, or 2,800 each; q0 sees one of them at least."""
    patients = [f"patient {n}" for n in range(8)]
    patients[1] = patients[2] = "L"
    data = embedded(patients=patients)
    long = " ".join(["There is an effusion."] * sentences)
    data = replace(data, reports=(data.reports[0], long, long, *data.reports[3:]))
    if always:
        with pytest.raises(InputError, match=f"1 x {DOES_NOT_FIT}.*fewer --documents"):
            drawn_trials(data, engine, documents=2)
    two = replace(
        data.subset([0, 0]),
        questions=(data.questions[0], asked("q1", pair_id="p5", patient_id="L")),
        q_images=np.array([AXES[0], AXES[5]], dtype=np.float32),
    )
    refused = []
    for seed in range(12):
        trials = drawn_trials(two, engine, documents=2, seed=seed)
        assert "q1" in trials.questions
        refused += trials.problems
        assert ("q0" in trials.questions) == (not trials.problems)
    assert {(item.kind, item.name) for item in refused} == {(DOES_NOT_FIT, "question 'q0'")}
    assert not any("effusion" in str(item) for item in refused)
    assert (len(refused) == 12) == always


def test_room_is_looked_for_at_every_level_of_noise(engine):
    """The relevant reports are short; two of the others, 1,400 tokens each, are too long."""
    data = embedded()
    long = " ".join(["There is an effusion."] * 700)
    data = replace(data, reports=(*data.reports[:5], *[long] * 3))
    with pytest.raises(InputError, match=f"1 x {DOES_NOT_FIT}"):
        drawn_trials(data, engine, documents=2)


def test_a_seed_decides_what_is_drawn(engine):
    def drawn(seed):
        trials = drawn_trials(embedded(), engine, documents=2, seed=seed)
        (item,) = trials.questions.values()
        return item.order, item.relevant, item.irrelevant

    assert drawn(3) == drawn(3)
    assert len({drawn(seed) for seed in range(12)}) > 4


# ---- images and settings


def test_a_prepared_image_is_read_as_the_picture_is(engine):
    pixels = np.random.default_rng(5).integers(0, 255, (192, 192, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    sweep = PrefixSweep(engine)
    documents = tuple(PromptDocument(str(n), "Positive for effusion.") for n in range(2))
    request = PromptRequest("Is there an effusion?", documents)
    variant = Variant(IFA(layers=(1,)), [(1.0, 0.0)])
    by_picture = sweep.ask([request], [picture], [variant])[0]
    prepared = engine.read_image(picture)
    by_tensor = sweep.ask([request], [prepared], [variant])[0]
    other = engine.read_image(Image.new("RGB", (192, 192)))
    assert by_tensor.p_yes[0] == by_picture.p_yes[0]
    assert sweep.ask([request], [other], [variant])[0].p_yes[0] != by_picture.p_yes[0]


def test_published_settings_are_the_defaults_of_the_policies():
    found = published((OFF, "ifa", "hard-mask", "pasta", "pai"), ("true", "mcr"), (2, 1))
    assert [(t.setting.policy, t.setting.scores) for t in found[:6]] == [
        (OFF, "true"), ("ifa", "true"), ("hard-mask", "true"), ("pasta", "true"), ("pai", "true"),
        (OFF, "mcr"),
    ]  # fmt: skip
    formulas = {t.setting.policy: t.setting.formula for t in found}
    assert formulas == {
        OFF: None,
        "ifa": IFA(layers=(1, 2)),
        "hard-mask": HardMask(layers=(1, 2)),
        "pasta": PASTA(layers=(1, 2)),
        "pai": PAI(layers=(1, 2), guidance=1.0),
    }
    assert {(t.accuracy, t.tries, t.questions) for t in found} == {(None, (), 0)}
