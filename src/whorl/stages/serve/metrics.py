"""What a server counts and times, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "Meters"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
SHORT_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Meters:
    """The metrics of one server process, each in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.ttft_s = Histogram(
            "whorl_ttft_seconds",
            "From a request's arrival to its first token",
            buckets=SECONDS,
            registry=registry,
        )
        self.token_s = Histogram(
            "whorl_time_per_token_seconds",
            "From one token of an answer to the next, mean of each answer",
            buckets=SHORT_S,
            registry=registry,
        )
        self.queue_s = Histogram(
            "whorl_queue_wait_seconds",
            "From a request's arrival to its place among those that run",
            buckets=SECONDS,
            registry=registry,
        )
        self.answer_s = Histogram(
            "whorl_answer_seconds",
            "From a request's arrival to the end of its answer",
            buckets=SECONDS,
            registry=registry,
        )
        self.answers = Counter(
            "whorl_answers", "Answers that ended, by how", ["finish_reason"], registry=registry
        )
        self.refused = Counter(
            "whorl_refused", "Requests that were refused, by why", ["code"], registry=registry
        )
        self.tokens = Counter(
            "whorl_tokens", "Tokens of prompts and of answers", ["kind"], registry=registry
        )
        self.swaps = Counter("whorl_swaps", "Models that took another's place", registry=registry)

    def gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A value that is looked up when it is read."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
