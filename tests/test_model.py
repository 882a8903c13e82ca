"""The shared nouns: what is green, what may be retried, which phase may follow which."""

import msgspec
import pytest

from runnerd.model import PHASES, Actor, Event, Outcome, Phase, Repository, status_name


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_success_and_skipped_are_green(outcome: Outcome) -> None:
    """Nothing unknown, lost or failed is ever green."""
    assert outcome.green == (outcome in (Outcome.SUCCESS, Outcome.SKIPPED))


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_our_own_faults_are_retried(outcome: Outcome) -> None:
    """A failure of the workflow is never repeated by itself."""
    assert outcome.retryable == (outcome in (Outcome.LOST, Outcome.INFRA_ERROR))


def test_what_is_done_stays_done() -> None:
    """Every phase has its row, each leads to DONE in the end, and DONE leads nowhere."""
    assert set(PHASES) == set(Phase)
    assert PHASES[Phase.DONE] == frozenset()
    assert all(Phase.DONE in following for phase, following in PHASES.items() if phase is not Phase.DONE)


def test_a_repository_knows_its_halves() -> None:
    """Owner and name are the parts of the full name."""
    repository = Repository(id=1, full_name="octo/hello")
    assert (repository.owner, repository.name) == ("octo", "hello")


def test_an_event_survives_the_ledger() -> None:
    """An event written as JSON comes back equal."""
    event = Event(
        delivery="d",
        name="push",
        repository=Repository(id=1, full_name="octo/hello"),
        sender=Actor(id=2, login="octo"),
        inputs={"level": 1},
    )
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event


def test_the_name_at_the_forge() -> None:
    """Checks and statuses are named as branch protection will require them."""
    assert status_name("CI", "test (3.12)") == "runnerd / CI / test (3.12)"
