"""``/metrics``: what Prometheus reads, of requests and of the scheduler before the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from mrrag_llamaindex.serving.http.work import Workers
    from mrrag_llamaindex.serving.service import Service

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The numbers of one server; no label holds anything of a request but its route.

    Attributes
    ----------
    registry : CollectorRegistry
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "mrrag_http_requests", "Requests", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "mrrag_http_request_seconds",
            "Seconds from a request to the end of its response",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refused = Counter(
            "mrrag_http_refusals", "Requests that were refused", ("code",), registry=self.registry
        )

    def note(self, route: str, status: int, code: str, seconds: float) -> None:
        """Count a request that has ended; status 0 is one that was never answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if code:
            self._refused.labels(code).inc()


class _Load(Collector):
    """What runs and waits now, read when it is asked for."""

    def __init__(self, service: Service, workers: Workers) -> None:
        self._service, self._workers = service, workers

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers."""
        workers = self._workers
        yield GaugeMetricFamily(
            "mrrag_http_requests_admitted", "Requests at work", value=workers.admitted
        )
        stats = self._service.llm.engine.stats
        yield GaugeMetricFamily("mrrag_queue_waiting", "Requests in the queue", stats.waiting)
        yield GaugeMetricFamily("mrrag_batch_running", "Requests in the batch", stats.running)
        ended = CounterMetricFamily("mrrag_answers", "Requests by how they ended", labels=["end"])
        for name in ("answered", "failed", "cancelled", "refused", "timed_out"):
            ended.add_metric([name], getattr(stats, name))
        yield ended
        for name, text in (
            ("rows", "Requests of each batch"),
            ("queue_seconds", "Seconds in the queue"),
            ("run_seconds", "Seconds from the start of the batch to the end of the answer"),
        ):
            counted = getattr(stats, name)
            bounds = [*map(str, counted.bounds), "+Inf"]
            sums = [sum(counted.counts[: place + 1]) for place in range(len(bounds))]
            key = "mrrag_batch_rows" if name == "rows" else f"mrrag_{name}"
            yield HistogramMetricFamily(
                key, text, list(zip(bounds, sums, strict=True)), sum_value=counted.total
            )


def metric_routes(service: Service, workers: Workers, metrics: Metrics) -> APIRouter:
    """Return the route."""
    metrics.registry.register(_Load(service, workers))
    routes = APIRouter()

    @routes.get("/metrics", summary="Numbers for Prometheus")
    async def read() -> Response:
        """Queue, batch sizes, latency and refusals."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes
