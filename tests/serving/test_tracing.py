"""Spans say what ran, how long and whether it failed, and nothing of what was asked."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mrrag_llamaindex.integration.telemetry import PlainExporter

SCRIPT = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from mrrag_llamaindex.errors import MRRAGError
from mrrag_llamaindex.integration.telemetry import trace_calls
from mrrag_llamaindex.serving.service import Service

exporter = InMemorySpanExporter()
trace_calls(exporter)
store, image, question = sys.argv[1:]
service = Service.load(store, model="phantom", max_new_tokens=4, device="cpu")
query = service.read_image(open(image, "rb").read())
service.ask(query, question)
service.index.as_query_engine(llm=service.llm, image=query).query(question)
service.index.as_chat_engine(llm=service.llm, image=query).chat(question)
try:
    service.ask(query, question * 10_000)
except MRRAGError:
    pass
trace.get_tracer_provider().force_flush()
for span in exporter.get_finished_spans():
    print(span.to_json(indent=None))
"""


@pytest.mark.slow
def test_no_word_of_question_report_or_path_is_exported(corpus, service):
    image = service.read_image(corpus.images[0].read_bytes())
    words = {corpus.question, str(corpus.store), str(corpus.images[0])}
    for row in service.retrieve(image, corpus.question):
        words |= {row["pair_id"], row["report"]}
    command = [sys.executable, "-c", SCRIPT, corpus.store, corpus.images[0], corpus.question]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "MRRAGRetriever" in result.stdout
    assert "EntryPoints.stream_chat" in result.stdout
    assert "ERROR" in result.stdout
    assert not [word for word in words if word in result.stdout]
    assert "effusion" not in result.stdout


@pytest.mark.parametrize("payloads", [False, True])
def test_payloads_are_sent_where_they_are_asked_for(payloads):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(PlainExporter(exporter, payloads=payloads)))
    name = "Engine.query-0b9b7f4e-5a53-4d8e-9f59-0d4a0d4b8c11"
    with provider.get_tracer("test").start_as_current_span(name) as span:
        span.set_attribute("question", "Is there a nodule?")
        span.add_event("answer", {"text": "a nodule"})
    (sent,) = exporter.get_finished_spans()
    assert sent.name == "Engine.query"
    assert ("nodule" in sent.to_json()) == payloads
