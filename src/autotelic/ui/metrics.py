"""What the endpoint counts, for Prometheus, and its traces, for OpenTelemetry where they are asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from autotelic.core.errors import MissingPackage

__all__ = ["Metrics", "Observed"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass
class Observed:
    """One request, as far as it has come."""

    model: str = "unknown"
    """Who answers: a name of ours, never what a caller wrote."""
    status: int = 200
    """Of the answer."""
    policy: int | None = None
    """Who answered."""
    usage: tuple[int, int] = (0, 0)
    """Tokens of prompts and completions."""
    first: float | None = None
    """Seconds to the first piece of text."""
    began: float = 0.0
    """When, by the monotonic clock."""

    def heard(self) -> None:
        """Note that there is text."""
        if self.first is None:
            self.first = time.monotonic() - self.began


class Metrics:
    """Counts requests; a registry of its own, so that two servers can be in one process.

    Args:
        traces: address of an OpenTelemetry collector (OTLP over HTTP); without it there are no traces.

    Raises:
        MissingPackage: prometheus_client, or for traces OpenTelemetry, is not installed.
    """

    def __init__(self, traces: str | None = None) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ModuleNotFoundError:
            raise MissingPackage("prometheus_client", "endpoint") from None
        self._registry = CollectorRegistry()
        known: dict[str, Any] = {"registry": self._registry, "namespace": "autotelic"}
        self._requests = Counter("requests", "Requests answered.", ["model", "status"], **known)
        self._tokens = Counter("tokens", "Tokens.", ["kind"], **known)
        self._seconds = Histogram("request_seconds", "Time of a request.", ["model"], buckets=_SECONDS, **known)
        self._first = Histogram("first_text_seconds", "Time to the first text.", ["model"], buckets=_SECONDS, **known)
        self._running = Gauge("requests_running", "Requests that are being answered.", **known)
        self._champion = Gauge("champion", "Number of the policy that is champion.", **known)
        made: tuple[Any, Any] = _tracer(traces) if traces else (None, None)
        self._tracer, self._provider = made

    @contextmanager
    def request(self) -> Iterator[Observed]:
        """Observe one request."""
        seen = Observed(began=time.monotonic())
        self._running.inc()
        began = time.time_ns()
        try:
            yield seen
        finally:
            self._running.dec()
            self._requests.labels(seen.model, str(seen.status)).inc()
            self._seconds.labels(seen.model).observe(time.monotonic() - seen.began)
            if seen.first is not None:
                self._first.labels(seen.model).observe(seen.first)
            for kind, count in zip(("prompt", "completion"), seen.usage, strict=True):
                self._tokens.labels(kind).inc(count)
            if self._tracer is not None:
                self._trace(seen, began)

    def champion(self, number: int) -> None:
        """Note who is champion."""
        self._champion.set(number)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text form."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def close(self) -> None:
        """Send the traces that are still here."""
        if self._provider is not None:
            self._provider.shutdown()

    def _trace(self, seen: Observed, began: int) -> None:
        # Names: OpenTelemetry's semantic conventions for generative models.
        span = self._tracer.start_span(f"chat {seen.model}", start_time=began)
        span.set_attributes(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "autotelic",
                "gen_ai.request.model": seen.model,
                "gen_ai.response.model": seen.model if seen.policy is None else f"policy-{seen.policy}",
                "gen_ai.usage.input_tokens": seen.usage[0],
                "gen_ai.usage.output_tokens": seen.usage[1],
                "http.response.status_code": seen.status,
            }
        )
        span.end()


def _tracer(url: str) -> tuple[Any, Any]:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise MissingPackage("opentelemetry-exporter-otlp-proto-http", "endpoint") from None
    provider = TracerProvider(resource=Resource.create({"service.name": "autotelic"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    return provider.get_tracer("autotelic"), provider
