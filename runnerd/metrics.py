"""Every metric of the daemon, declared once with its help text, and their rendering for Prometheus.

No label takes text from a webhook, a workflow or a guest as it stands: pass it through `event_label`
or use one of the closed sets named in the help text.
"""

from __future__ import annotations

import platform

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from runnerd import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

CONTENT_TYPE = CONTENT_TYPE_LATEST

EVENTS = frozenset({"ping", "pull_request", "push", "workflow_dispatch"})
"""The webhook events with a meaning here; every other name is counted as `other`."""

_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_BOOT = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_LONG = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 21600)

webhook_deliveries = Counter(
    "runnerd_webhook_deliveries",
    "Webhook deliveries answered, by event and result "
    "(accepted, duplicate, acknowledged, bad_signature, malformed, too_large, overloaded).",
    ["event", "result"],
    registry=REGISTRY,
)
webhook_ack_seconds = Histogram(
    "runnerd_webhook_ack_seconds",
    "Seconds from the end of a delivery's headers to its durable acknowledgement.",
    buckets=_FAST,
    registry=REGISTRY,
)
webhook_backlog = Gauge(
    "runnerd_webhook_backlog", "Stored deliveries that were not planned yet.", registry=REGISTRY
)
runs = Gauge("runnerd_runs", "Runs that have not ended, by phase.", ["state"], registry=REGISTRY)
jobs = Gauge("runnerd_jobs", "Jobs that have not ended, by phase.", ["state"], registry=REGISTRY)
job_queue_seconds = Histogram(
    "runnerd_job_queue_seconds",
    "Seconds a job waited for its machine after it was allowed to start.",
    buckets=_LONG,
    registry=REGISTRY,
)
job_duration_seconds = Histogram(
    "runnerd_job_duration_seconds",
    "Seconds a job ran on its machine, by its outcome.",
    ["conclusion"],
    buckets=_LONG,
    registry=REGISTRY,
)
vm_pool = Gauge(
    "runnerd_vm_pool",
    "Machines by state (warm, busy, booting, draining).",
    ["state"],
    registry=REGISTRY,
)
vm_boot_seconds = Histogram(
    "runnerd_vm_boot_seconds",
    "Seconds from cloning a machine to its passed thaw gate.",
    buckets=_BOOT,
    registry=REGISTRY,
)
image_rollbacks = Counter(
    "runnerd_image_rollbacks",
    "Generations of an image that failed their trial, so that the one before went on.",
    ["image"],
    registry=REGISTRY,
)
vm_leaked = Counter("runnerd_vm_leaked", "Machines found without a live lease and ended.", registry=REGISTRY)
report_outbox = Gauge("runnerd_report_outbox", "Reports that were not delivered yet.", registry=REGISTRY)
report_latency_seconds = Histogram(
    "runnerd_report_latency_seconds",
    "Seconds from writing a report to the outbox to its delivery.",
    buckets=_LONG,
    registry=REGISTRY,
)
github_requests = Counter(
    "runnerd_github_requests",
    "Requests to the forge's API, by endpoint template and HTTP status (0: no answer).",
    ["endpoint", "code"],
    registry=REGISTRY,
)
github_ratelimit_remaining = Gauge(
    "runnerd_github_ratelimit_remaining",
    "Requests the forge still allows in this window, as its last answer said.",
    registry=REGISTRY,
)
egress = Counter(
    "runnerd_egress_connections",
    "Connections that jobs asked the egress proxy for, by result (connected, refused, failed).",
    ["result"],
    registry=REGISTRY,
)
masked = Counter("runnerd_masked", "Secrets replaced in job output.", registry=REGISTRY)
actor_restarts = Counter(
    "runnerd_actor_restarts", "Actors restarted after a crash, by actor.", ["actor"], registry=REGISTRY
)
build_info = Info("runnerd_build", "Version of the daemon and of Python.", registry=REGISTRY)
build_info.info({"version": __version__, "python": platform.python_version()})


def event_label(name: str | None) -> str:
    """Return the event's name as a label value of bounded variety."""
    return name if name in EVENTS else "other"


def render() -> bytes:
    """Return all metrics in Prometheus' text exposition format (`CONTENT_TYPE`)."""
    return generate_latest(REGISTRY)
