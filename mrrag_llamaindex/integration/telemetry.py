"""Spans of retrievals and answers for OpenTelemetry, by default without a word of what was asked.

LlamaIndex's own integration records questions, reports and answers; here a span keeps its name,
its times and whether it failed, unless payloads are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mrrag_llamaindex.errors import InputError

try:
    from llama_index.observability.otel import LlamaIndexOpenTelemetry
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Status
except ModuleNotFoundError:
    raise InputError('tracing needs its extra: pip install "mrrag-llamaindex[tracing]"') from None

_NUMBER = re.compile(r"-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
"""What LlamaIndex adds to the name of a span, so that no two have the same."""


class PlainExporter(SpanExporter):
    """Exports spans under names that repeat, without what they hold.

    Parameters
    ----------
    exporter : SpanExporter
        The one that sends them.
    payloads : bool
        Send what they hold, too.
    """

    def __init__(self, exporter: SpanExporter, *, payloads: bool = False) -> None:
        self._exporter = exporter
        self._payloads = payloads

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        return self._exporter.export([self._plain(span) for span in spans])

    def shutdown(self) -> None:
        """End."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is left."""
        return self._exporter.force_flush(timeout_millis)

    def _plain(self, span: ReadableSpan) -> ReadableSpan:
        held: dict[str, Any] = (
            {"attributes": span.attributes, "events": span.events, "status": span.status}
            if self._payloads
            # The description of a failure is the error's text, which may quote anything.
            else {"status": Status(span.status.status_code)}
        )
        return ReadableSpan(
            _NUMBER.sub("", span.name),
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            kind=span.kind,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
            **held,
        )


def trace_calls(exporter: SpanExporter | None = None, *, payloads: bool = False) -> None:
    """Send a span for every retrieval and answer of this process from now on.

    Parameters
    ----------
    exporter : SpanExporter, optional
        Default: OTLP over gRPC, to where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says, else this machine.
    payloads : bool
        With questions, reports and answers in them.
    """
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    LlamaIndexOpenTelemetry(
        span_exporter=PlainExporter(exporter, payloads=payloads),
        service_name_or_resource=Resource.create({SERVICE_NAME: "mrrag"}),
    ).start_registering()
