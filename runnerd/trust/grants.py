"""Which of the host's secrets a job may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from runnerd.model import Event
from runnerd.workflow import match_patterns

OF_THE_BASE = frozenset({"pull_request_target"})
"""Events about a fork's pull request that run the base repository's own files."""


DEPENDABOT = "dependabot[bot]"
"""An account that no person can have: names of people hold no brackets."""


class Rule(Protocol):
    """When one secret may be had: each list that is not empty has to match."""

    @property
    def repositories(self) -> tuple[str, ...]:
        """Full names, as patterns."""
        ...

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches whose code runs, as patterns: never a pull request's."""
        ...

    @property
    def events(self) -> tuple[str, ...]:
        """Names of events."""
        ...

    @property
    def environments(self) -> tuple[str, ...]:
        """Names of the environment the job says it is for, as patterns."""
        ...


def strangers(event: Event) -> bool:
    """Whether the files that run are a stranger's: those of a fork's pull request."""
    return event.fork and event.name not in OF_THE_BASE


def restricted(event: Event) -> bool:
    """Whether what runs gets no secret and may only read: strangers' files, and what Dependabot proposes.

    Its changes bring in code that nobody here has looked at
    (docs.github.com, "Dependabot on GitHub Actions").
    """
    return strangers(event) or event.sender.login == DEPENDABOT


def granted(
    names: frozenset[str], rules: Mapping[str, Rule], event: Event, environment: str
) -> frozenset[str]:
    """Return those of some secrets (in upper case) that a job may have; of a restricted event's none.

    `rules` has them by name in any case; one without a rule is for every job of who may have it.
    """
    if restricted(event):
        return frozenset()
    by_name = {name.upper(): rule for name, rule in rules.items()}
    return frozenset(name for name in names if _allows(by_name.get(name), event, environment))


def _allows(rule: Rule | None, event: Event, environment: str) -> bool:
    if rule is None:
        return True
    branch = event.ref.removeprefix("refs/heads/") if event.ref.startswith("refs/heads/") else ""
    # A name without a value matches no pattern, not even `**`.
    return (
        _matches([each.casefold() for each in rule.repositories], event.repository.full_name.casefold())
        and _matches(rule.branches, branch)
        and (not rule.events or event.name in rule.events)
        and _matches(rule.environments, environment)
    )


def _matches(patterns: tuple[str, ...] | list[str], value: str) -> bool:
    return not patterns or (bool(value) and match_patterns(list(patterns), value))
