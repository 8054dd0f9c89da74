"""The harness on the shipped phantom: learning, tuning and scoring never share a question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.set_embedding import embed_set
from mrrag_llamaindex.evaluation.methods.learning import Learned, learn
from mrrag_llamaindex.evaluation.methods.ranking import IMAGE_TO_TEXT
from mrrag_llamaindex.evaluation.methods.registry import build_method
from mrrag_llamaindex.evaluation.methods.tuning import TRIES
from mrrag_llamaindex.evaluation.run.answers_file import read_predictions
from mrrag_llamaindex.evaluation.run.harness import Harness
from mrrag_llamaindex.evaluation.run.records import HarnessSettings
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.phantom.sets.evaluation_set import PhantomSetting, phantom_set
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.store.protocol import PairStore
from mrrag_llamaindex.store.schema import StoreSchema
from mrrag_llamaindex.towers.loading import load_towers

SETTING = PhantomSetting(patients=24, profiles=6, documents=4)
LEARNED = Learned(FusionWeights(1, 1, 1))


class CountingEngine(LlavaEngine):
    """The engine, which also counts the questions that it is asked."""

    asked = 0

    def generate(self, requests, images, **how):
        self.asked += len(requests)
        return super().generate(requests, images, **how)


@pytest.fixture(scope="module")
def engine() -> CountingEngine:
    loaded = load_model(defaults.PHANTOM, device="cpu")
    return CountingEngine(loaded, max_documents=4, max_new_tokens=4, batch_size=4)


@pytest.fixture(scope="module")
def towers():
    return load_towers(defaults.PHANTOM, device="cpu")


def store_for(towers) -> PairStore:
    return PairStore.create("memory", StoreSchema.of(towers))


def embedded(towers, seed: int, questions: int):
    return embed_set(
        phantom_set(seed, questions=questions, setting=SETTING), towers, store_for(towers)
    )


@pytest.fixture(scope="module")
def tests(towers):
    return [embedded(towers, 0, 6), embedded(towers, 1, 6)]


@pytest.fixture(scope="module")
def tune(towers):
    return embedded(towers, 5001, 30)


def harness(engine, towers, folder=None, *methods: str, **settings) -> Harness:
    chosen = HarnessSettings(methods=methods, documents=4, max_new_tokens=2, **settings)
    return Harness(engine, towers.identity, chosen, folder=folder)


class TestEmbedding:
    def test_an_image_asked_about_twice_is_embedded_once(self, towers):
        data = phantom_set(2, questions=2, setting=SETTING)
        first = data.questions[0]
        again = replace(first, question_id="again", question=data.questions[1].question)
        data = replace(
            data, questions=(*data.questions, again), labels={**data.labels, "again": "no"}
        )
        seen = []
        embed = type(towers).embed_images

        class Counting(type(towers)):
            def embed_images(self, images, batch_size=32):
                seen.extend(images)
                return embed(self, images, batch_size)

        towers.__class__, kind = Counting, type(towers)
        try:
            found = embed_set(data, towers, store_for(towers))
        finally:
            towers.__class__ = kind
        assert len(seen) == len(data.pairs) + 2
        assert np.array_equal(found.q_images[0], found.q_images[2])
        assert np.allclose(found.q_texts[1], found.q_texts[2], atol=1e-6)
        assert found.golds == (*(data.labels[q.question_id] for q in data.questions),)

    def test_vectors_are_those_of_the_towers(self, towers, tests):
        data = phantom_set(0, questions=6, setting=SETTING)
        made = tests[0]
        assert made.pair_ids == tuple(pair.pair_id for pair in data.pairs)
        expected = towers.embed_texts([pair.report for pair in data.pairs])
        assert np.allclose(made.documents[:, towers.dimension :], expected, atol=1e-5)
        asked = towers.embed_texts([item.question for item in data.questions])
        assert np.allclose(made.q_texts, asked, atol=1e-5)

    def test_exact_search_is_the_stores_search(self, towers):
        data = phantom_set(3, questions=4, setting=SETTING)
        store = store_for(towers)
        found = embed_set(data, towers, store)
        weights = FusionWeights(0.7, 0.2, 1.3)
        for row in range(4):
            hits = store.query(found.q_images[row], found.q_texts[row], weights, 5)
            ours = found.fused(row, weights, 5)
            assert [hit.pair_id for hit in hits] == [d.document_id for d in ours]
            assert [d.score for d in ours] == pytest.approx([h.score for h in hits], abs=1e-5)

    def test_what_cannot_be_read_is_left_out_and_listed(self, towers, tmp_path):
        data = phantom_set(2, questions=3, setting=SETTING)
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no picture")
        bad = replace(data.questions[0], image=str(broken))
        data = replace(data, questions=(bad, *data.questions[1:]))
        found = embed_set(data, towers, store_for(towers))
        (left,) = found.left_out
        assert found.questions == data.questions[1:]
        assert left.identifier == bad.question_id
        assert "broken.png" not in left.reason

    def test_a_report_whose_image_is_missing_can_still_be_a_document(self, towers):
        data = phantom_set(2, questions=3, setting=SETTING)
        first = data.pairs[0]
        alone = Pair(None, first.report, first.pair_id, first.patient_id)
        data = replace(data, pairs=(alone, *data.pairs[1:]))
        found = embed_set(data, towers, store_for(towers))
        assert found.left_out == ()
        assert found.pair_ids[0] == first.pair_id
        text = towers.embed_texts([first.report])[0]
        assert np.allclose(found.documents[0], [*np.zeros(towers.dimension), *text], atol=1e-5)
        everything = found.fused(0, IMAGE_TO_TEXT, len(found.pair_ids))
        assert first.pair_id in {document.document_id for document in everything}

    def test_pairs_of_which_none_can_be_used_are_an_error(self, towers):
        data = phantom_set(2, questions=1, setting=SETTING)
        silent = Pair(data.pairs[0].image, None, "silent", "somebody")
        with pytest.raises(InputError, match="no pair with a report"):
            embed_set(replace(data, pairs=(silent,), facts={}), towers, store_for(towers))


class TestRun:
    def test_every_question_is_answered_once_by_every_method(self, engine, towers, tests):
        names = ("no-retrieval", "naive-rag", "mcr")
        found = harness(engine, towers, None, *names).run(tests, LEARNED)
        assert tuple(found.predictions) == names
        for answers in found.predictions.values():
            ids = [item.question_id for item in answers]
            assert len(set(ids)) == 12
            assert {name.split("/")[0] for name in ids} == {"seed0", "seed1"}
            assert {item.gold for item in answers} <= {"yes", "no"}
        read = {name: {len(p.documents) for p in a} for name, a in found.predictions.items()}
        assert read == {"no-retrieval": {0}, "naive-rag": {4}, "mcr": {4}}

    def test_batches_give_what_single_questions_give(self, engine, towers, tests):
        method = build_method("mcr+ifa", documents=4, weights=LEARNED.weights)
        runner = harness(engine, towers, None, "mcr+ifa")
        whole = runner.predict(method, tests[0], "test")
        single = [runner.predict(method, tests[0].subset([row]), "test")[0] for row in range(6)]
        assert [p.question_id for p in whole] == [p.question_id for p in single]
        assert [p.documents for p in whole] == [p.documents for p in single]
        assert [p.p_yes for p in whole] == pytest.approx([p.p_yes for p in single], abs=1e-4)

    def test_policy_acts_and_reads_the_same_documents(self, engine, towers, tests):
        found = harness(engine, towers, None, "mcr", "mcr+ifa").run(tests, LEARNED)
        plain, steered = found.predictions["mcr"], found.predictions["mcr+ifa"]
        assert [p.documents for p in plain] == [p.documents for p in steered]
        assert max(abs(a.p_yes - b.p_yes) for a, b in zip(plain, steered, strict=True)) > 1e-3

    def test_factmm_without_labels_is_reported_not_dropped(self, engine, towers, tests):
        wanted = ("naive-rag", "factmm-rag")
        unlabelled = [replace(item, facts={}) for item in tests[:1]]
        learned = learn(
            unlabelled[0], store_for(towers), towers, engine, weights=FusionWeights(), wanted=wanted
        )
        found = harness(engine, towers, None, *wanted).run(unlabelled, learned)
        assert list(found.predictions) == ["naive-rag"]
        assert "no finding labels are known" in found.not_run["factmm-rag"]

    def test_an_image_that_has_gone_counts_as_not_answered(self, engine, towers, tmp_path):
        path = tmp_path / "query.png"
        data = phantom_set(2, questions=3, setting=SETTING)
        data.questions[1].image.save(path)
        moved = replace(data.questions[1], image=str(path))
        data = replace(data, questions=(data.questions[0], moved, data.questions[2]))
        test = embed_set(data, towers, store_for(towers))
        path.unlink()
        found = harness(engine, towers, None, "naive-rag").run([test], LEARNED)
        texts = [item.text for item in found.predictions["naive-rag"]]
        assert texts[1] == ""
        assert "" not in (texts[0], texts[2])
        (left,) = found.left_out
        assert left.identifier == moved.question_id
        assert "query.png" not in left.reason

    def test_without_pairs_only_what_retrieves_nothing_is_run(self, engine, towers):
        data = replace(phantom_set(2, questions=2, setting=SETTING), pairs=(), facts={})
        test = embed_set(data, towers, store_for(towers))
        found = harness(engine, towers, None, "no-retrieval", "naive-rag", "mcr+ifa").run(
            [test], LEARNED
        )
        assert list(found.predictions) == ["no-retrieval"]
        assert found.not_run == dict.fromkeys(
            ("naive-rag", "mcr+ifa"), "there are no pairs to retrieve from"
        )
        with pytest.raises(InputError, match="no method can be run"):
            harness(engine, towers, None, "naive-rag").run([test], LEARNED)
        learned = learn(test, store_for(towers), towers, engine, wanted=("mcr",))
        assert learned.weights == FusionWeights()


class TestTuning:
    @pytest.mark.slow
    def test_tuned_on_the_validation_set_only(self, engine, towers, tests, tune, tmp_path):
        found = harness(engine, towers, tmp_path, "mcr+ifa").run(tests[:1], LEARNED, tune)
        (tuned,) = found.tuned
        assert len(tuned.tries) == TRIES
        ours = {item.question_id for item in tune.questions}
        files = sorted((tmp_path / "answers").rglob("*.jsonl"))
        validation = [path for path in files if path.parent.name == "validation"]
        assert len(validation) == TRIES
        for path in validation:
            assert {p.question_id for p in read_predictions(path)[1]} == ours
        (scored,) = [path for path in files if path.parent.name == "test-0"]
        header, answers = read_predictions(scored)
        assert header.settings["policy"] == repr(tuned.setting.policy)
        assert [p.text for p in answers] == [p.text for p in found.predictions["mcr+ifa"]]
        best = max(item.accuracy for item in tuned.tries)
        chosen = next(t for t in tuned.tries if t.setting == tuned.setting)
        assert chosen.accuracy == best

    @pytest.mark.slow
    def test_places_are_those_of_the_models_own_layers(
        self, engine, towers, tests, tune, monkeypatch
    ):
        assert engine.loaded.critical_layers != (2,)
        other = replace(engine.loaded, critical_layers=(2,))
        monkeypatch.setattr(engine, "loaded", other)
        found = harness(engine, towers, None, "mcr+ifa").run(tests[:1], LEARNED, tune)
        (tuned,) = found.tuned
        assert sum(item.setting.policy.layers == (2,) for item in tuned.tries) == TRIES / 3
        assert found.critical_layers == (2,)

    def test_too_few_questions_leave_the_published_settings(self, engine, towers, tests, tune):
        few = tune.subset(range(5))
        found = harness(engine, towers, None, "mcr+ifa").run(tests[:1], LEARNED, few)
        assert found.tuned == ()
        assert any("5 validation questions are too few" in note for note in found.notes)
        plain = harness(engine, towers, None, "mcr+ifa").run(tests[:1], LEARNED)
        assert plain.predictions == found.predictions
        assert any("no validation questions" in note for note in plain.notes)


class TestResuming:
    def test_a_finished_run_asks_nothing_again(self, engine, towers, tests, tmp_path):
        first = harness(engine, towers, tmp_path, "naive-rag", "mcr").run(tests, LEARNED)
        before = engine.asked
        again = harness(engine, towers, tmp_path, "naive-rag", "mcr").run(tests, LEARNED)
        assert engine.asked == before
        assert again.predictions == first.predictions

    def test_a_killed_run_goes_on_with_the_rest(self, engine, towers, tests, tmp_path):
        first = harness(engine, towers, tmp_path, "mcr").run(tests[:1], LEARNED)
        (path,) = (tmp_path / "answers" / "test-0").glob("*.jsonl")
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:3]) + lines[3][:20])  # two answers, and a torn one
        before = engine.asked
        again = harness(engine, towers, tmp_path, "mcr").run(tests[:1], LEARNED)
        assert engine.asked - before == 4
        one, two = (run.predictions["mcr"] for run in (first, again))
        # Other rows shared their batch, so the last digits may differ.
        assert [(p.question_id, p.text) for p in one] == [(p.question_id, p.text) for p in two]
        assert [p.p_yes for p in one] == pytest.approx([p.p_yes for p in two], abs=1e-4)

    def test_other_weights_do_not_reuse_answers(self, engine, towers, tests, tmp_path):
        harness(engine, towers, tmp_path, "mcr").run(tests[:1], LEARNED)
        before = engine.asked
        other = Learned(FusionWeights(0, 1, 0))
        harness(engine, towers, tmp_path, "mcr").run(tests[:1], other)
        assert engine.asked - before == 6

    def test_other_critical_layers_are_refused_before_anything_is_asked(
        self, engine, towers, tests, tmp_path, monkeypatch
    ):
        harness(engine, towers, tmp_path, "no-retrieval", "mcr+ifa").run(tests[:1], LEARNED)
        layers = list(engine.loaded.critical_layers)
        for path in tmp_path.rglob("*.jsonl"):
            assert read_predictions(path)[0].settings["critical_layers"] == layers
        files = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
        before = engine.asked
        monkeypatch.setattr(engine, "loaded", replace(engine.loaded, critical_layers=(3,)))
        with pytest.raises(InputError, match=r"critical_layers \[\d\], and this run has \[3\]"):
            harness(engine, towers, tmp_path, "mcr+ifa").run(tests[:1], LEARNED)
        assert engine.asked == before
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == files

    def test_labels_are_those_of_this_run_and_not_of_the_one_that_asked(
        self, engine, towers, tests, tmp_path
    ):
        first = harness(engine, towers, tmp_path, "mcr").run(tests[:1], LEARNED)
        golds = tuple("no" if gold == "yes" else "yes" for gold in tests[0].golds)
        other = replace(tests[0], golds=golds)
        before = engine.asked
        again = harness(engine, towers, tmp_path, "mcr").run([other], LEARNED)
        assert engine.asked == before
        assert tuple(item.gold for item in again.predictions["mcr"]) == golds
        assert [p.text for p in again.predictions["mcr"]] == [
            p.text for p in first.predictions["mcr"]
        ]
        pooled = read_predictions(tmp_path / "predictions" / "mcr.jsonl")[1]
        assert tuple(item.gold for item in pooled) == golds

    def test_what_could_not_be_asked_is_still_listed_by_a_resumed_run(
        self, engine, towers, tmp_path
    ):
        path = tmp_path / "query.png"
        data = phantom_set(2, questions=2, setting=SETTING)
        data.questions[1].image.save(path)
        moved = replace(data.questions[1], image=str(path))
        test = embed_set(
            replace(data, questions=(data.questions[0], moved)), towers, store_for(towers)
        )
        path.unlink()
        for _ in range(2):
            found = harness(engine, towers, tmp_path / "out", "naive-rag").run([test], LEARNED)
            assert [item.identifier for item in found.left_out] == [moved.question_id]

    def test_other_questions_in_the_same_folder_are_refused(self, engine, towers, tests, tmp_path):
        harness(engine, towers, tmp_path, "mcr").run(tests[:1], LEARNED)
        with pytest.raises(InputError, match="was begun with data"):
            harness(engine, towers, tmp_path, "mcr").run([tests[0].subset([0, 1])], LEARNED)

    def test_progress_counts_to_the_end_and_knows_what_was_resumed(
        self, engine, towers, tests, tmp_path
    ):
        harness(engine, towers, tmp_path, "mcr").run(tests, LEARNED)
        told = []
        runner = Harness(
            engine,
            towers.identity,
            HarnessSettings(methods=("naive-rag", "mcr"), documents=4, max_new_tokens=2),
            folder=tmp_path,
            progress=lambda *state: told.append(state),
        )
        runner.run(tests, LEARNED)
        assert told[-1][1:] == (12, 24, 0)
        assert runner._done == 24
        assert runner._resumed == 12


class TestLearning:
    def test_few_questions_leave_equal_weights(self, engine, towers):
        data = phantom_set(5000, questions=4, setting=SETTING)
        store = store_for(towers)
        found = learn(embed_set(data, towers, store), store, towers, engine, wanted=("mcr",))
        assert found.weights == FusionWeights()
        assert "equal" in found.notes[0]

    @pytest.mark.slow
    def test_weights_are_learned_from_the_models_confidence(self, engine, towers, tmp_path: Path):
        data = phantom_set(5000, questions=40, setting=SETTING)
        store = store_for(towers)
        fit = embed_set(data, towers, store)
        found = learn(fit, store, towers, engine, wanted=("mcr", "factmm-rag"), folder=tmp_path)
        assert found.weights != FusionWeights()
        assert "learned from" in found.notes[0]
        assert (tmp_path / "d_train.jsonl").is_file()
        assert "factmm-rag" in found.rankings

    def test_given_weights_are_taken_and_nothing_is_mined(self, engine, towers, tests, tmp_path):
        given = FusionWeights(3, 2, 1)
        found = learn(
            tests[0], store_for(towers), towers, engine, weights=given, folder=tmp_path,
            wanted=("mcr",),
        )  # fmt: skip
        assert found.weights == given
        assert not list(tmp_path.iterdir())


def test_phantom_facts_are_what_the_reports_say():
    data = phantom_set(4, questions=2, setting=SETTING)
    for pair in data.pairs:
        facts = data.facts[pair.pair_id]
        report = pair.report.lower()
        assert 4 <= len(facts) <= 7
        assert all(name in report for name in facts)
    assert isinstance(data.questions[0].image, Image.Image)
    assert {q.patient_id for q in data.questions}.isdisjoint({p.patient_id for p in data.pairs})
