"""What is asked about people and pull requests; who may approve by it shows the gate's test."""

from types import SimpleNamespace

import msgspec
import pytest

from runnerd.forge.people import People
from runnerd.forge.protocol import ForgeUnavailable
from runnerd.model import Actor, Event, Repository, RunRecord

RUN = RunRecord(
    id=1, delivery="d", repository="o/r", workflow_path="ci.yml", workflow_name="CI", title="", source="",
    event=Event(
        delivery="d", name="pull_request", repository=Repository(id=1, full_name="o/r"),
        sender=Actor(id=1, login="x"), report_sha="a" * 40, number=3,
    ),
    number=1,
)  # fmt: skip


class OneAnswer:
    """Gives the same answer to every question."""

    def __init__(self, answer):
        self.answer = answer

    async def ask(self, method, path, *, repository="", permission="", body=None):
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(json=lambda: self.answer)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"state": "open", "head": {"sha": "a" * 40}}, ""),
        ({"state": "open", "head": {"sha": "b" * 40}}, "has newer commits"),
        ({"state": "closed", "head": {"sha": "a" * 40}}, "is closed"),
        ({"state": "open", "head": None}, "has newer commits"),
        ([], "is closed"),
        (ForgeUnavailable("down", 1.0), "does not say"),
    ],
)
async def test_an_approval_is_for_an_open_pull_request_at_this_commit(answer, reason):
    """Whatever else the forge answers, or fails to, counts as a reason against it."""
    assert reason in await People(OneAnswer(answer)).why_void(RUN)
    assert bool(await People(OneAnswer(answer)).why_void(RUN)) is bool(reason)


async def test_what_is_about_the_closing_can_be_approved_after_it():
    """A run held for that would stay open for ever; its commit has to be the same all the same."""
    run = msgspec.structs.replace(RUN, event=msgspec.structs.replace(RUN.event, action="closed"))
    closed = {"state": "closed", "head": {"sha": "a" * 40}}
    assert await People(OneAnswer(closed)).why_void(run) == ""
    moved = {"state": "closed", "head": {"sha": "b" * 40}}
    assert "newer commits" in await People(OneAnswer(moved)).why_void(run)
    assert "is closed" in await People(OneAnswer([])).why_void(run)


async def test_without_a_forge_the_operator_decides():
    """There is nobody to ask about the pull request, and nobody is anybody."""
    assert await People(None).why_void(RUN) == ""
    assert await People(None).permission("o/r", Actor(id=1, login="x")) == ""
    assert await People(None).setting("o/r") == "all_external_contributors"


@pytest.mark.parametrize("answer", [{}, {"permission": "admin"}, {"permission": "admin", "user": 7}, []])
async def test_an_answer_without_the_number_is_no_permission(answer):
    """A name proves nothing."""
    assert await People(OneAnswer(answer)).permission("o/r", Actor(id=1, login="x")) == ""
