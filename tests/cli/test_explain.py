"""What `runnerd explain` prints."""

from typing import Any

import pytest

from runnerd.cli import control

ANSWER = {
    "run": {
        "id": 7, "workflow_name": "CI", "outcome": None, "phase": "running", "reason": "",
        "repository": "o/r",
        "event": {"name": "push", "ref": "refs/heads/topic"},
    },
    "notes": [{"path": "ci.yml", "matched": True, "reason": "on push"}],
    "jobs": [
        {
            "legs": [{"name": "deploy", "phase": "done", "outcome": "skipped", "reason": "it is false"}],
            "explanation": {
                "key": "deploy", "needs": {"build": "success"}, "implied": "true", "reason": "",
                "condition": "a && b",
                "operands": {
                    "text": "a && b", "value": "false",
                    "operands": [
                        {"text": "a", "value": "false\x1b[2J", "operands": []},
                        {"text": "b", "value": None, "operands": []},
                    ],
                },
            },
        },
        {
            "legs": [],
            "explanation": {
                "key": "last", "needs": {"x": ""}, "implied": None, "reason": "it waits for x",
                "condition": "",
                "operands": None,
            },
        },
    ],
}  # fmt: skip


class Answering:
    """Answers as the control API does."""

    def __call__(self, path: Any) -> "Answering":
        return self

    def explain(self, run: int) -> Any:
        assert run == 7
        return ANSWER


def test_every_workflow_and_job_says_why(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes, legs, needs and each operand's value; what was not evaluated says so; no control characters."""
    monkeypatch.setattr(control, "Client", Answering())
    done = invoke("explain", "7")
    assert done.exit_code == 0
    for line in (
        "run 7: CI, running",
        "  ci.yml started: on push",
        "    deploy: skipped: it is false",
        "    needs build success",
        "    success() is true",
        "    if: a && b",
        "        b → not evaluated",
        "    it waits for x",
        "    needs x has not ended",
    ):
        assert line in done.stdout.splitlines()
    assert "\x1b" not in done.stdout


def test_json_is_what_the_daemon_says(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools get the whole answer."""
    monkeypatch.setattr(control, "Client", Answering())
    assert '"it waits for x"' in invoke("explain", "7", "--json").stdout
