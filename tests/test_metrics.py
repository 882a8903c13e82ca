"""The exposition: every metric declared, named alike, with help and bounded labels."""

import prometheus_client.parser

from runnerd import metrics

EXPECTED = {
    "runnerd_webhook_deliveries",
    "runnerd_webhook_ack_seconds",
    "runnerd_webhook_backlog",
    "runnerd_runs",
    "runnerd_jobs",
    "runnerd_job_queue_seconds",
    "runnerd_job_duration_seconds",
    "runnerd_vm_pool",
    "runnerd_vm_boot_seconds",
    "runnerd_image_rollbacks",
    "runnerd_vm_leaked",
    "runnerd_report_outbox",
    "runnerd_report_latency_seconds",
    "runnerd_github_requests",
    "runnerd_github_ratelimit_remaining",
    "runnerd_masked",
    "runnerd_actor_restarts",
    "runnerd_build",
    "runnerd_egress_connections",
}


def test_names_and_help() -> None:
    """Each metric of the daemon is declared with a help sentence, and all begin with runnerd_."""
    families = [
        family for family in metrics.REGISTRY.collect() if not family.name.startswith(("process_", "python_"))
    ]
    assert {family.name for family in families} == EXPECTED
    assert all(family.documentation.endswith(".") for family in families)


def test_render() -> None:
    """The rendered text parses, and holds what was counted."""
    metrics.actor_restarts.labels(actor="parser").inc()
    text = metrics.render().decode()
    samples = {
        (sample.name, sample.labels.get("actor")): sample.value
        for family in prometheus_client.parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["runnerd_actor_restarts_total", "parser"] >= 1


def test_build_info() -> None:
    """The version of the daemon is a label of a metric that is always 1."""
    assert b'runnerd_build_info{python="' in metrics.render()


def test_event_label() -> None:
    """A stranger's event name cannot grow the number of series."""
    assert metrics.event_label("push") == "push"
    assert metrics.event_label("x" * 1000) == "other"
    assert metrics.event_label(None) == "other"
