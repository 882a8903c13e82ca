"""What this host gives to the jobs it runs: images for labels, checkouts, secrets, log files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from runnerd import log
from runnerd.actors.attempt import NoSecrets
from runnerd.config import Config, sizes
from runnerd.daemon import snapshots
from runnerd.daemon.network import JobNetwork
from runnerd.forge.protocol import Forge, ForgeDenied, ForgeUnavailable
from runnerd.jobs.ports import Checkout, LogSink, Network
from runnerd.machines.kept import KeptMachines
from runnerd.machines.labels import image_for
from runnerd.machines.rewind import Rules
from runnerd.model import JobRecord, RunRecord
from runnerd.store.logs import JobLog, log_path
from runnerd.store.secrets import SecretError, Secrets
from runnerd.trust.grants import granted, restricted
from runnerd.trust.handed import SWITCHES

_log = log.get("site")

REVOKING = 10.0
"""Seconds that the end of a job's token may take."""


class Site:
    """Implements what the executor and the parser ask of their host."""

    def __init__(
        self,
        config: Config,
        checkout: Checkout,
        *,
        state: Path,
        clock: Callable[[], float],
        foreign_is_failure: bool,
        secrets: Mapping[str, str] | None = None,
        store: Secrets | None = None,
        forge: Forge | None = None,
        variables: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        awaited: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """`awaited` tells which kept machines jobs wait to go on from; see `KeptMachines`."""
        self.checkout: Checkout = checkout
        self.network: Network | None = JobNetwork(config)
        self.server_url = config.forge.server
        self.api_url = config.forge.api
        self.shared_workflows = config.parser.shared_workflows
        self.variables: Mapping[str, str] = {**config.variables, **(variables or {})}
        self.environment: Mapping[str, str] = dict(environment or {})
        self.foreign_is_failure = foreign_is_failure
        self.workflow_folders = config.workflow_folders
        self.allow_emulated_forks = config.machines.allow_emulated_forks
        self.job_minutes = config.executor.default_timeout_minutes
        self.cancel_minutes = config.executor.cancel_minutes
        self.rewinds = Rules(mode=config.snapshots.mode, steps=config.retry.steps, times=config.retry.times)
        self.kept: KeptMachines = snapshots.kept_machines(config, state, clock, awaited)
        self._secrets = {name.upper(): value for name, value in (secrets or {}).items()}
        self._store = store
        self._forge = forge
        self._rules = config.secret_rules
        self._labels = {name: kind.labels for name, kind in sizes.kinds(config.images).items()}
        self._limits = config.logs
        self._state = state
        self._clock = clock

    def image_for(self, labels: tuple[str, ...]) -> str | None:
        """The image that claims these labels, or None."""
        return image_for(self._labels, labels)

    async def secrets_for(
        self, run: RunRecord, named: frozenset[str] | None, environment: str
    ) -> Mapping[str, str]:
        """Those given for this host, and of those that are kept the ones whose rules hold; see `Site`."""
        if restricted(run.event):
            return {}
        given = self._secrets
        if named is not None:
            named |= SWITCHES
            given = {name: value for name, value in given.items() if name in named}
        if self._store is None:
            return given
        try:
            kept = await trio.to_thread.run_sync(self._kept, self._store, run, named, environment)
        except SecretError as problem:
            raise NoSecrets(str(problem)) from None
        return {**kept, **given}

    @asynccontextmanager
    async def job_token(self, run: RunRecord, permissions: Mapping[str, str]) -> AsyncIterator[str]:
        """A token for this job alone, never the daemon's own; see `Site`.

        Without a forge it is the GITHUB_TOKEN that was given for this host, as `runnerd run -s` does.
        """
        if self._forge is None:
            yield self._secrets.get("GITHUB_TOKEN", "")
            return
        try:
            token = await self._forge.job_token(run.repository, permissions)
        except (ForgeDenied, ForgeUnavailable) as problem:
            raise NoSecrets(f"the forge gives no token: {problem}") from None
        if token is None:
            _log.info("job_without_token", run=run.id, why="only a GitHub App can make tokens for jobs")
            yield ""
            return
        try:
            yield token.value
        finally:
            with trio.move_on_after(REVOKING, shield=True):
                try:
                    await self._forge.revoke(token)
                except (ForgeDenied, ForgeUnavailable) as problem:  # it ends by itself within the hour
                    _log.warning("token_not_revoked", run=run.id, problem=str(problem))

    def _kept(
        self, store: Secrets, run: RunRecord, named: frozenset[str] | None, environment: str
    ) -> dict[str, str]:
        names = store.names(run.repository)
        names = names if named is None else names & named
        return store.values(run.repository, granted(names, self._rules, run.event, environment))

    @asynccontextmanager
    async def open_log(self, run: RunRecord, job: JobRecord) -> AsyncIterator[LogSink]:
        """The job's log file, as a context that has written everything when it is left."""
        path = log_path(self._state, run.id, job.id)
        async with JobLog(path, self._limits.job_limit, self._limits.step_limit, self._clock) as log:
            yield log
