"""One hospital, one model, and observers around every test: none of them may see a marker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from llama_index.core import QueryBundle, Settings
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.tools import QueryEngineTool

from mrrag_llamaindex import answer_trace
from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.images.load import image_digest, load_image
from mrrag_llamaindex.integration.tickets.nodes import ticket_of
from tests.integration.matrix.readers import MARKER, OtherLLM, Watch, texts_in, watching

PATIENT = "patient-07"
QUESTION = "Is there a pleural effusion?"


@pytest.fixture(autouse=True)
def watch(hospital, llm) -> Iterator[Watch]:
    """Observers of the host; whatever a test does, none of them may have seen a marker."""
    with watching(hospital.index._callback_manager, llm.callback_manager) as watch:
        yield watch
    assert watch.leaks == []


@pytest.fixture(autouse=True)
def host_defaults(monkeypatch) -> OtherLLM:
    """What the host takes where nothing is given: never our model, and nothing from the network."""
    other = OtherLLM()
    monkeypatch.setattr(Settings, "_llm", other)
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(embed_dim=8))
    return other


@pytest.fixture
def other() -> Iterator[OtherLLM]:
    """An LLM that is not ours; it may never read a marker."""
    other = OtherLLM()
    yield other
    assert not [prompt for prompt in other.prompts if MARKER in prompt]


@dataclass
class Model:
    """What the model itself was given, call by call, and answers with."""

    requests: list[PromptRequest] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)


@pytest.fixture(autouse=True)
def model(llm, monkeypatch) -> Model:
    """Note what reaches the model behind `MRRAGLLaVA`, which answers as ever."""
    model = Model()
    generate, stream = llm.engine.generate, llm.engine.stream

    def noted_generate(requests: Any, images: Any, **options: Any) -> Any:
        model.requests.extend(requests)
        model.images.extend(images)
        return generate(requests, images, **options)

    def noted_stream(request: Any, image: Any, **options: Any) -> Any:
        model.requests.append(request)
        model.images.append(image)
        return stream(request, image, **options)

    monkeypatch.setattr(llm.engine, "generate", noted_generate)
    monkeypatch.setattr(llm.engine, "stream", noted_stream)
    return model


@dataclass
class Checks:
    """What every usage has to keep."""

    hospital: Any
    model: Model

    def bundle(self, question: str = QUESTION, patient: str = PATIENT) -> QueryBundle:
        return QueryBundle(question, image_path=self.hospital.images[patient])

    def nodes(self, nodes: Any, patient: str = PATIENT) -> None:
        """Nodes keep image, score and terms of their own retrieval, and show no marker."""
        assert nodes
        known: dict[str, dict[str, Any]] = {}
        for item in nodes:
            question = item.node._evidence.question
            if question not in known:
                image = self.hospital.images[patient]
                hits = self.hospital.index.as_retriever().hits(question, image)
                known[question] = {hit.pair_id: hit for hit in hits}
            hit = known[question][item.node.node_id]
            facts = item.node.metadata["mrrag"]
            assert facts["score"] == pytest.approx(hit.score, abs=1e-5)
            assert {name: facts[name] for name in hit.terms} == pytest.approx(hit.terms, abs=1e-5)
            assert not [text for text in texts_in(item) if MARKER in text]

    def answered(
        self,
        response: Any,
        *questions: str,
        patient: str = PATIENT,
        documents: Sequence[str] | None = None,
        steered: bool | None = None,
        text: str | None = None,
    ) -> list[Answer]:
        """Each question was answered from this patient's documents and image, and steered."""
        text = str(response) if text is None else text
        assert text.strip()
        assert MARKER not in text
        assert "Empty Response" not in text
        expected = {
            name
            for question in questions or (QUESTION,)
            for name in self.hospital.evidence(patient, question)
        }
        expected = expected if documents is None else set(documents)
        nodes = [item for item in response.source_nodes if ticket_of(item.node) is not None]
        self.nodes(nodes, patient)
        assert {item.node.node_id for item in nodes} == expected
        answers = answer_trace(nodes)
        assert answers
        assert {name for answer in answers for name in answer.document_ids} == expected
        for answer in answers:
            # Min-max over one document's score leaves nothing to prefer.
            wanted = len(answer.document_ids) > 1 if steered is None else steered
            assert answer.steering.applied == wanted
        self.image(nodes, patient)
        return answers

    def image(self, nodes: Any, patient: str = PATIENT) -> None:
        """The tickets have this patient's image, and so had every call of the model."""
        path = self.hospital.images[patient]
        tickets = [ticket for item in nodes if (ticket := ticket_of(item.node)) is not None]
        assert {ticket.image.digest for ticket in tickets} == {image_digest(path)}
        pixels = np.asarray(load_image(path).convert("RGB"))
        assert self.model.images
        for (image,) in self.model.images:
            assert np.array_equal(np.asarray(image.convert("RGB")), pixels)
        for request in self.model.requests:
            assert not [text for text in texts_in(vars(request)) if MARKER in text]


@pytest.fixture
def checks(hospital, model) -> Checks:
    return Checks(hospital, model)


@pytest.fixture
def engine(hospital, llm) -> RetrieverQueryEngine:
    return hospital.index.as_query_engine(llm)


@pytest.fixture
def tools(engine) -> list[QueryEngineTool]:
    return [
        QueryEngineTool.from_defaults(engine, name=name, description=f"asks {name}")
        for name in ("first", "second")
    ]
