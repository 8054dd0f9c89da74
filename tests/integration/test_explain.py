"""What explain says of a document is what hiding it by hand does; the answer stays what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from llama_index.core import QueryBundle

from mrrag_llamaindex import MRRAGLLaVA, MRRAGSynthesizer, answer_trace, defaults
from mrrag_llamaindex.errors import ModelError, SteeringError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.explanation import explain
from mrrag_llamaindex.generation.influence.hiding import require_explainable
from mrrag_llamaindex.phantom.sets.trials import draw_trials
from mrrag_llamaindex.plots.words import signed_points
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI

QUESTION = "Is there a pleural effusion?"


@pytest.fixture(scope="module")
def llm():
    return MRRAGLLaVA(model="phantom", max_new_tokens=3, explain=True)


@pytest.fixture(scope="module")
def engine(llm) -> LlavaEngine:
    return llm.engine


@pytest.fixture(scope="module")
def whole() -> LlavaEngine:
    """The same model on the eager backend, by the definition."""
    return LlavaEngine(load_model(defaults.PHANTOM, device="cpu", backend="eager"))


def by_hand(engine, trial, policy, number: int | None) -> torch.Tensor:
    """First-token probabilities of one full pass, with one document cut out of every mask."""
    read = engine.read_image(trial.image)
    prompt = engine.prompt(trial.request, read)
    plan, _ = engine.planner.plan([prompt], policy)

    def cut(module, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        if number is not None:
            start, stop = prompt.document_spans[number]
            low = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            mask[:, :, prompt.question_span[0] :, start:stop] = low
        return args, {**kwargs, "attention_mask": mask}

    layers = engine.model.model.language_model.layers
    handles = [layer.self_attn.register_forward_pre_hook(cut, with_kwargs=True) for layer in layers]
    try:
        logits = engine.runner.logits([prompt.input_ids], [read], steering=plan)
    finally:
        for handle in handles:
            handle.remove()
    return logits[0, -1].softmax(-1)


@pytest.mark.parametrize("policy", [None, IFA(), IFA(strength=2, layers=(0, 2))])
def test_influence_equals_hiding_each_document_by_hand(engine, whole, policy):
    largest = 0.0
    for trial in draw_trials(41, 3, documents=4, irrelevant=2):
        found = explain(engine, trial.request, trial.image, policy)
        base = by_hand(whole, trial, policy, None)
        token = int(base.argmax())
        assert list(found) == [document.document_id for document in trial.request.documents]
        for number, influence in enumerate(found.values()):
            without = by_hand(whole, trial, policy, number)
            expected = 100 * float(base[token] - without[token])
            assert influence.points == pytest.approx(expected, abs=2e-3)
            assert influence.flips == (int(without.argmax()) != token)
            largest = max(largest, abs(expected))
    assert largest > 0.1


def test_a_document_whose_absence_changes_the_answer_flips_it(engine):
    """One matching document alone: without it there is only the image."""
    found = []
    for trial in draw_trials(42, 40, documents=1, irrelevant=0):
        (influence,) = explain(engine, trial.request, trial.image).values()
        found.append(influence)
    flipped = [influence.points for influence in found if influence.flips]
    assert flipped  # where image and document disagree
    assert min(flipped) > 0  # a document that made the answer cannot have lowered it


def test_documents_come_in_as_many_passes_as_the_batch_allows(engine, monkeypatch):
    (trial,) = draw_trials(43, 1, documents=4, irrelevant=2)
    expected = explain(engine, trial.request, trial.image, IFA())
    small = LlavaEngine(engine.loaded, batch_size=2)
    sizes, logits = [], small.runner.logits

    def counting(sequences, *args, **kwargs):
        sizes.append(len(sequences))
        return logits(sequences, *args, **kwargs)

    monkeypatch.setattr(small.runner, "logits", counting)
    found = explain(small, trial.request, trial.image, IFA())
    assert sizes == [2] * 4  # each document, and the answer to compare with
    assert list(found) == list(expected)
    for name, influence in found.items():
        assert influence.points == pytest.approx(expected[name].points, abs=1e-3)


def test_it_is_one_pass_on_the_kept_prefix(engine, monkeypatch):
    (trial,) = draw_trials(44, 1, documents=4, irrelevant=2)
    engine.generate([trial.request], [trial.image], policy=IFA())
    shapes = []
    forward = type(engine.model).forward

    def counting(self, *args, **kwargs):
        shapes.append((kwargs.get("pixel_values") is None, len(kwargs["input_ids"])))
        return forward(self, *args, **kwargs)

    counting.__signature__ = forward.__signature__
    monkeypatch.setattr(type(engine.model), "forward", counting)
    explain(engine, trial.request, trial.image, IFA())
    assert shapes == [(True, 5)]


def test_a_document_that_the_policy_leaves_out_moves_nothing(engine):
    (trial,) = draw_trials(47, 1, documents=4, irrelevant=2)
    found = explain(engine, trial.request, trial.image, HardMask(mode="drop"))
    kept = [d.document_id for d in trial.request.documents if d.score >= 0.5]
    assert list(found) == kept
    assert len(kept) < len(trial.request.documents)


def test_without_documents_there_is_nothing_to_say(engine):
    (trial,) = draw_trials(45, 1, documents=1, irrelevant=0)
    assert explain(engine, replace(trial.request, documents=()), trial.image) == {}


def test_the_answer_is_the_same_to_the_last_bit(hospital, llm, image):
    bundle = QueryBundle(QUESTION, image_path=str(image))
    plain = MRRAGLLaVA(model="phantom", max_new_tokens=3, engine=llm.engine)
    one, two = (
        answer_trace(hospital.index.as_query_engine(llm=each).query(bundle).source_nodes)[-1]
        for each in (plain, llm)
    )
    assert one.influence is None
    assert set(two.influence) == set(two.document_ids)
    assert replace(two, influence=None, seconds=0.0) == replace(one, seconds=0.0)


def test_synthesizer_writes_it_into_response_and_nodes(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm, response_synthesizer=MRRAGSynthesizer(llm))
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    (answer,) = answer_trace(response.source_nodes)
    assert response.metadata["mrrag"]["influence"].keys() == answer.influence.keys()
    for item in response.source_nodes:
        written = item.node.metadata["mrrag"]["influence"]
        assert written["points"] == answer.influence[item.node.node_id].points
        assert isinstance(written["flips"], bool)
        assert "influence" not in item.node.get_content()


def test_nothing_is_written_without_it(hospital, llm, image):
    plain = MRRAGLLaVA(model="phantom", max_new_tokens=3, engine=llm.engine)
    engine = hospital.index.as_query_engine(llm=plain, response_synthesizer=MRRAGSynthesizer(plain))
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    assert response.metadata["mrrag"]["influence"] is None
    assert all("influence" not in item.node.metadata["mrrag"] for item in response.source_nodes)


def test_a_stream_says_it_with_its_last_piece(hospital, llm, image):
    engine = hospital.index.as_query_engine(llm=llm, streaming=True)
    response = engine.query(QueryBundle(QUESTION, image_path=str(image)))
    text = "".join(response.response_gen)
    (answer,) = answer_trace(response.source_nodes)
    assert answer.text == text.strip()
    assert set(answer.influence) == set(answer.document_ids)


def test_models_that_cannot_hide_a_document_are_refused_at_construction(engine):
    family = replace(engine.loaded.family, shares_prefix=False)
    other = LlavaEngine(replace(engine.loaded, family=family))
    with pytest.raises(ModelError, match="cannot share one"):
        MRRAGLLaVA(model="phantom", explain=True, engine=other)
    with torch.compiler.set_stance("force_eager"):  # Compiled, it is refused on many CPUs.
        flex = LlavaEngine(load_model(defaults.PHANTOM, device="cpu", backend="flex"))
    with pytest.raises(ModelError, match="'flex' takes no mask"):
        require_explainable(flex)


def test_guided_decoding_is_refused(engine):
    (trial,) = draw_trials(46, 1, documents=2, irrelevant=1)
    with pytest.raises(SteeringError, match="guides"):
        explain(engine, trial.request, trial.image, PAI(guidance=1.1))
    assert explain(engine, trial.request, trial.image, PAI(guidance=1.0))


def test_demo_shows_it_beside_the_score(llm, hospital, image, capsys):
    from mrrag_llamaindex.commands.console import print_answer
    from mrrag_llamaindex.integration.answers.ask import ask

    asked = ask(hospital.index, llm, str(image), QUESTION)
    print_answer(asked.as_dict())
    shown = capsys.readouterr().out
    assert "moved" in shown
    first = next(iter(asked.answer.influence.values()))
    assert signed_points(first.points) in shown
