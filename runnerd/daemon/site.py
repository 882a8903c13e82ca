"""What this host gives to the jobs it runs: images for labels, checkouts, secrets, log files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from runnerd.config import Config
from runnerd.daemon.network import JobNetwork
from runnerd.jobs.ports import Checkout, LogSink, Network
from runnerd.machines.labels import image_for
from runnerd.model import JobRecord, RunRecord
from runnerd.store.logs import JobLog, log_path


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
        variables: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.checkout: Checkout = checkout
        self.network: Network | None = JobNetwork(config)
        self.server_url = config.forge.server
        self.api_url = config.forge.api
        self.secrets: Mapping[str, str] = dict(secrets or {})
        self.variables: Mapping[str, str] = dict(variables or {})
        self.environment: Mapping[str, str] = dict(environment or {})
        self.foreign_is_failure = foreign_is_failure
        self.workflow_folders = config.workflow_folders
        self.allow_emulated_forks = config.machines.allow_emulated_forks
        self.job_minutes = config.executor.default_timeout_minutes
        self.cancel_minutes = config.executor.cancel_minutes
        self._labels = {name: image.labels for name, image in config.images.items()}
        self._limits = config.logs
        self._state = state
        self._clock = clock

    def image_for(self, labels: tuple[str, ...]) -> str | None:
        """The image that claims these labels, or None."""
        return image_for(self._labels, labels)

    @asynccontextmanager
    async def open_log(self, run: RunRecord, job: JobRecord) -> AsyncIterator[LogSink]:
        """The job's log file, as a context that has written everything when it is left."""
        path = log_path(self._state, run.id, job.id)
        async with JobLog(path, self._limits.job_limit, self._limits.step_limit, self._clock) as log:
            yield log
