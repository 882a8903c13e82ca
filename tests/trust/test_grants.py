"""Which secrets a job may have, and that a stranger has none."""

import pytest

from runnerd.config.sections import SecretRule
from runnerd.model import Actor, Event, Repository
from runnerd.trust.grants import granted, restricted, strangers


def event(**fields):
    known = {
        "delivery": "d",
        "name": "push",
        "repository": Repository(id=5, full_name="Octo/Hello"),
        "sender": Actor(id=1, login="ada"),
        "ref": "refs/heads/main",
    }
    return Event(**{**known, **fields})


def may(rule, environment="", **fields):
    return bool(granted(frozenset({"KEY"}), {"key": rule}, event(**fields), environment))


def test_without_a_rule_every_own_event_has_it():
    """Rules narrow; who keeps a secret without one wants it to be had."""
    assert granted(frozenset({"KEY"}), {}, event(), "") == {"KEY"}


@pytest.mark.parametrize("name", ["pull_request", "pull_request_review", "push"])
def test_a_fork_has_none_whatever_the_rules_say(name):
    """The files that run are a stranger's."""
    stranger = event(name=name, fork=True, ref="refs/heads/main")
    assert strangers(stranger)
    assert granted(frozenset({"KEY"}), {"KEY": SecretRule()}, stranger, "production") == frozenset()


@pytest.mark.parametrize("name", ["pull_request", "push", "pull_request_target"])
def test_what_dependabot_proposes_has_none_either(name):
    """It is no stranger whose run waits, but the code that it brings in is nobody's here."""
    proposed = event(name=name, sender=Actor(id=9, login="dependabot[bot]"))
    assert restricted(proposed)
    assert not strangers(proposed)
    assert granted(frozenset({"KEY"}), {}, proposed, "") == frozenset()
    assert not restricted(event(sender=Actor(id=9, login="dependabot")))


def test_pull_request_target_runs_the_bases_own_files():
    """So that what it runs is not the stranger's; whether it runs at all is another rule."""
    assert not strangers(event(name="pull_request_target", fork=True))


def test_each_condition_has_to_hold():
    """Repository, branch, event and environment; names of repositories have no case."""
    assert may(SecretRule(repositories=("octo/*",)))
    assert not may(SecretRule(repositories=("octo/else",)))
    assert may(SecretRule(branches=("main", "release/**")), ref="refs/heads/release/1/2")
    assert not may(SecretRule(branches=("main",)), ref="refs/heads/mainly")
    assert may(SecretRule(events=("push",)))
    assert not may(SecretRule(events=("schedule",)))
    assert may(SecretRule(environments=("production",)), "production")
    assert not may(SecretRule(environments=("production",)), "staging")
    assert not may(SecretRule(repositories=("octo/*",), events=("schedule",)))


@pytest.mark.parametrize("ref", ["refs/pull/7/merge", "refs/tags/main", "main", ""])
def test_only_a_branch_is_a_branch(ref):
    """A pull request into main is not main, nor is a tag of that name, whatever the patterns."""
    assert not may(SecretRule(branches=("**",)), ref=ref)


def test_a_job_without_an_environment_matches_none():
    """Not even the pattern for all."""
    assert not may(SecretRule(environments=("**",)), "")
