"""The daemon: actors in order, signals, systemd's questions."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from runnerd import log, metrics, notify
from runnerd.actors.control import Api, ControlActor
from runnerd.actors.executor import ExecutorActor
from runnerd.actors.health import HealthActor, NotReady, pool_check
from runnerd.actors.parser import ParserActor
from runnerd.actors.pool import PoolActor
from runnerd.actors.receiver import ReceiverActor
from runnerd.actors.reconciler import ReconcilerActor
from runnerd.actors.reporter import ReporterActor
from runnerd.actors.shell import Shells
from runnerd.actors.timekeeper import TimekeeperActor
from runnerd.actors.writer import WriterActor
from runnerd.config import Config
from runnerd.daemon import drivers, pages, snapshots
from runnerd.daemon.pages import Pages
from runnerd.daemon.site import Site
from runnerd.forge.delivery_list import DeliveryList, retention
from runnerd.forge.links import NO_LINKS, Links
from runnerd.forge.people import People
from runnerd.forge.protocol import Forge, ForgeDenied, ForgeUnavailable
from runnerd.git.checkout import MirrorCheckout
from runnerd.git.mirror import Mirrors
from runnerd.git.process import GitError
from runnerd.machines.driver import NoMachine
from runnerd.machines.kinds import Rules
from runnerd.messages import (
    BranchMoved,
    CancelRun,
    DeliveryAccepted,
    DeliveryHeld,
    OutboxChanged,
    RunCreated,
)
from runnerd.planning.again import part_of
from runnerd.planning.explain import explain_run
from runnerd.planning.gate import Gate
from runnerd.planning.planner import Planner
from runnerd.planning.schedules import Schedules
from runnerd.reading.process import Reader
from runnerd.store.ledger import CannotOpen, Ledger, LedgerUnavailable, open_ledger
from runnerd.store.secrets import Secrets
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.supervisor import Child, GaveUp, RestartPolicy, StartFailed, sole, supervise
from runnerd.web import listeners

_log = log.get("daemon")

EXIT_OK, EXIT_CRASHED, EXIT_USAGE, EXIT_NO_MACHINE, EXIT_INTERRUPTED = 0, 1, 2, 5, 130
DRAIN_TIMEOUT = 6 * 3600.0 + 600.0
"""Seconds that running jobs may take to end after the first SIGTERM: the longest a job may run, and some."""
PULSE = 5.0
"""Seconds between two lines for `systemctl status` and the age gauges."""


def serve(config: Config, *, open_driver: drivers.Open = drivers.open_driver) -> int:
    """Run the daemon until it is told to stop; returns its exit status.

    The first SIGTERM or SIGINT drains: running jobs end, queued ones wait for the next start. The second
    cancels the running jobs and reports them as cancelled. The third ends the daemon at once; what ran is
    then settled by the next start. What keeps the daemon from starting is said in one sentence.
    """
    if config.machines.driver_name == "process" and not config.machines.allow_unisolated:
        print(
            "runnerd: the process driver isolates nothing, and webhooks carry other people's code: choose "
            "another driver, or write allow_unisolated = true under [machines] if you trust all of it",
            file=sys.stderr,
        )
        return EXIT_USAGE
    if problem := snapshots.why_no_key(config):
        print(f"runnerd: {problem}", file=sys.stderr)
        return EXIT_USAGE
    try:
        abandoned = trio.run(partial(_serve, config, open_driver))
    except Exception as error:
        cause = sole(error)
        if isinstance(cause, CannotOpen):
            status = EXIT_USAGE
        elif isinstance(cause, StartFailed | GaveUp):
            status = EXIT_NO_MACHINE if isinstance(cause.__cause__, NoMachine) else EXIT_CRASHED
        else:
            raise
        _log.error("the daemon ends", problem=str(cause))
        print(f"runnerd: {cause}", file=sys.stderr)
        return status
    return EXIT_INTERRUPTED if abandoned else EXIT_OK


async def _serve(config: Config, open_driver: drivers.Open) -> bool:
    """Run the daemon; True when it was made to end at once."""
    state = config.state_directory
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(open_ledger(state / "ledger.db"))
        config.control_socket.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        forge = await stack.enter_async_context(open_forge(config))
        mirrors = await stack.enter_async_context(
            Mirrors(
                state / "mirrors", remote_of=config.remote_of, credential=partial(_credential, config, forge)
            )
        )
        daemon = _Daemon(config, ledger, forge, mirrors, open_driver)
        await daemon.run()
    return daemon.abandoned


@asynccontextmanager
async def open_forge(config: Config) -> AsyncIterator[Forge | None]:
    """The configured forge, or None where we have no name there."""
    forge = config.forge
    if not forge.named:
        yield None
        return
    # The HTTP client is heavy: only who reports loads it.
    from runnerd.forge.client import open_github
    from runnerd.forge.gitea import open_gitea

    token = forge.token.reveal() if forge.token else ""
    key = forge.app_private_key.reveal() if forge.app_private_key else ""
    if forge.kind == "gitea":
        async with open_gitea(forge.api, token) as gitea:
            yield gitea
    else:
        app = forge.app_id if forge.as_app else ""
        async with open_github(forge.api, token, app=app, private_key=key) as github:
            yield github


def _given_by_systemd() -> Path | None:
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(given) if given else None


async def _credential(config: Config, forge: Forge | None, repository: str) -> tuple[str, str] | None:
    """The forge's token opens the forge's own repositories; a remote elsewhere never sees it."""
    if forge is None or not config.remote_of(repository).startswith(config.forge.server.rstrip("/") + "/"):
        return None
    try:
        return await forge.credential(repository)
    except (ForgeDenied, ForgeUnavailable) as problem:
        raise GitError(f"no way in to {repository}: {problem}") from problem


class _Daemon:
    """All actors of one daemon, and the channels between them."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        forge: Forge | None,
        mirrors: Mirrors,
        open_driver: drivers.Open,
    ) -> None:
        self.config, self.ledger, self.forge, self.mirrors = config, ledger, forge, mirrors
        self.open_driver = drivers.opener(config, ledger, open_driver)
        self.reader = Reader()
        self.parser: Mailbox[DeliveryAccepted] = Mailbox(1024)
        self.reconciler: Mailbox[DeliveryHeld] = Mailbox(64)
        self.timekeeper: Mailbox[BranchMoved] = Mailbox(256)
        self.executor: Mailbox[RunCreated | CancelRun] = Mailbox(1024)
        self.pool: Mailbox[drivers.PoolMessage] = Mailbox(1024)
        self.reporter: Mailbox[OutboxChanged] = Mailbox(64)
        self.stop, self.cancel_jobs = trio.Event(), trio.Event()
        self.abandoned = False
        self.close_receiver, self.close_control, self.close_health = trio.Event(), trio.Event(), trio.Event()
        self.serving = False
        self.site = Site(
            config,
            MirrorCheckout(mirrors, _folder(config.state_directory / "checkouts")),
            state=config.state_directory,
            clock=time.time,
            foreign_is_failure=config.match.mode == "all",
            forge=forge,
            store=Secrets(config.state_directory / "secrets", _given_by_systemd()),
            awaited=ledger.awaited_machines,
        )
        self.links = NO_LINKS
        if config.server.public_url:
            key = pages.key(_folder(config.state_directory))
            self.links = Links(public_url=config.server.public_url, key=key)
        self.people = People(forge, as_app=config.forge.as_app)
        self.shells = Shells(
            ledger=ledger,
            pool=self.pool,
            host=self.site,
            shelf=self.site.kept,
            mode=config.snapshots.mode,
            stopping=self.stop,
            clock=time.time,
        )
        self.part = partial(
            part_of,
            ledger=ledger,
            reader=self.reader,
            kept=self.site.kept.of,
            mode=config.snapshots.mode,
        )
        # The API's state outlives a crash of the actor that serves it.
        self.api = Api(
            ledger=ledger,
            executor=self.executor,
            pool=self.pool,
            drain=self.stop.set,
            draining=self.stop.is_set,
            explain=partial(explain_run, ledger=ledger, reader=self.reader, site=self.site),
            part=self.part,
            shell=self.shells.open,
            state_directory=config.state_directory,
            kept=self.site.kept,
            why_void=self.people.why_void,
        )

    def children(self) -> list[Child]:
        """Every actor, sinks first: the order of the start, and backwards that of the drain.

        Control comes before those it asks, for whoever wonders what a long start or a long drain waits for;
        what it tells one that does not read is in the ledger.
        """
        return [
            Child(name="writer", make=lambda: WriterActor(self.ledger), close=self.ledger.close),
            Child(name="control", make=self._control, close=self.close_control.set),
            Child(name="reporter", make=self._reporter, close=self.reporter.close),
            Child(
                name="pool",
                make=self._pool,
                close=self.pool.close,
                policy=RestartPolicy(start_timeout=drivers.BOOT_TIMEOUT),
            ),
            Child(name="health", make=self._health, close=self.close_health.set),
            Child(
                name="executor",
                make=self._executor,
                close=self.executor.close,
                policy=RestartPolicy(drain_timeout=DRAIN_TIMEOUT),
            ),
            Child(name="parser", make=self._parser, close=self.parser.close),
            *self._reconcilers(),
            Child(name="timekeeper", make=self._timekeeper, close=self.timekeeper.close),
            Child(name="receiver", make=self._receiver, close=self.close_receiver.set),
        ]

    def _reporter(self) -> ReporterActor:
        return ReporterActor(
            self.reporter,
            ledger=self.ledger,
            forge=self.forge,
            directory=self.config.state_directory / "reports",
            state_directory=self.config.state_directory,
            links=self.links,
            comments=self.config.reports.comment,
        )

    def _pool(self) -> PoolActor:
        pool = self.config.pool
        return PoolActor(
            self.pool,
            self.open_driver,
            drivers.machine_kinds(self.config),
            Rules(
                min_idle=pool.min_idle,
                max_total=pool.max_total,
                max_idle_age=pool.max_idle_age,
                memory=drivers.pool_memory(self.config),
                vcpus=drivers.pool_vcpus(self.config),
                max_idle=pool.max_idle,
                builders=drivers.builders(),
                cores=drivers.builders(),
                canary_leases=pool.canary_leases,
            ),
            records=drivers.records(self.config),
            paused=self.ledger.pause,
            journal=self.ledger.tell_machine,
            snapshot_key=self.site.kept.key,
            history=self.ledger.leases,
        )

    def _health(self) -> HealthActor:
        address = self.config.server.metrics_address

        async def listen() -> list[trio.SocketListener]:
            if address is None:
                return []
            return await listeners.open_tcp(*address, setting="[server] metrics")

        async def serving() -> None:
            if self.stop.is_set():
                raise NotReady("the daemon is draining: it takes nothing new")
            if not self.serving:
                raise NotReady("the daemon is starting: not every actor serves yet")

        checks = {"daemon": serving, "ledger": self.ledger.check_writable, "pool": pool_check(self.pool)}
        return HealthActor(listen, checks=checks, stop=self.close_health)

    def _executor(self) -> ExecutorActor:
        return ExecutorActor(
            self.executor,
            ledger=self.ledger,
            pool=self.pool,
            reporter=self.reporter,
            site=self.site,
            clock=time.time,
            cancel_all=self.cancel_jobs,
            reader=self.reader,
        )

    def _control(self) -> ControlActor:
        async def listen() -> Sequence[trio.abc.Listener[trio.SocketStream]]:
            given = _handed_over("control")
            return given or [listeners.open_unix(self.config.control_socket)]

        return ControlActor(listen, self.api, stop=self.close_control)

    def _parser(self) -> ParserActor:
        return ParserActor(
            self.parser,
            ledger=self.ledger,
            planner=Planner(
                self.mirrors,
                self.site,
                merges=self.config.merges,
                nudge=self._ask_about_pull if self._lists_deliveries() else None,
                reader=self.reader,
            ),
            executor=self.executor,
            reporter=self.reporter,
            workers=self.config.parser.workers,
            part=self.part,
            gate=Gate(self.people, refuses=self.config.refuses),
            targets=self.config.targets,
            timekeeper=self.timekeeper,
        )

    def _timekeeper(self) -> TimekeeperActor:
        return TimekeeperActor(
            self.timekeeper,
            ledger=self.ledger,
            schedules=Schedules(self.ledger, self.mirrors, self.site.workflow_folders, self.reader),
            parser=self.parser,
            clock=time.time,
        )

    def _lists_deliveries(self) -> bool:
        """Whether there is a GitHub that we may ask what it delivered; no other forge has such a list."""
        return self.forge is not None and self.config.forge.kind == "github"

    async def _ask_about_pull(self, repository: str, number: int) -> None:
        """GitHub looks whether a pull request can be merged when somebody asks about it."""
        if self.forge is not None:
            with contextlib.suppress(ForgeDenied, ForgeUnavailable):
                await self.forge.ask(
                    "GET", f"/repos/{repository}/pulls/{number}", repository=repository,
                    permission="Pull requests: read",
                )  # fmt: skip

    def _reconcilers(self) -> list[Child]:
        if self.forge is None or not self._lists_deliveries():
            return []
        forge, config = self.forge, self.config

        def make() -> ReconcilerActor:
            return ReconcilerActor(
                self.reconciler,
                ledger=self.ledger,
                lists=DeliveryList(forge, public_url=config.server.public_url),
                parser=self.parser,
                as_app=config.forge.as_app,
                named=tuple(config.repositories),
                remembered=retention(config.forge.api),
            )

        return [Child(name="reconciler", make=make, close=self.reconciler.close)]

    def _receiver(self) -> ReceiverActor:
        server = self.config.server

        async def listen() -> list[trio.SocketListener]:
            return _handed_over("webhook") or await listeners.open_tcp(
                server.host, server.port, setting="[server] host and port"
            )

        return ReceiverActor(
            listen,
            ledger=self.ledger,
            parser=self.parser,
            secrets=self.config.webhook.secrets,
            stop=self.close_receiver,
            reconciler=self.reconciler if self._lists_deliveries() else None,
            body_limit=server.body_limit,
            body_timeout=server.body_timeout,
            max_connections=server.max_connections,
            page=Pages(self.ledger, self.config.state_directory, self.links).page if self.links.key else None,
        )

    async def run(self) -> None:
        """Start everything, tell systemd, and end when told to."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signals, nursery.cancel_scope)
            nursery.start_soon(self._pulse)
            await supervise(self.children(), stop=self.stop, task_status=self)
            nursery.cancel_scope.cancel()

    def started(self, value: None = None) -> None:
        """Every actor serves; not called when the start was cut short."""
        self.serving = True
        _log.info("serving", pid=os.getpid(), driver=self.config.machines.driver_name)
        notify.notify(notify.READY)

    async def _signals(self, everything: trio.CancelScope) -> None:
        """The ladder: drain, cancel the jobs, end at once."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    _log.warning("a new configuration is taken up by a restart only: SIGHUP is ignored")
                elif not self.stop.is_set():
                    _log.info("draining: running jobs may end; the next signal cancels them")
                    notify.notify(notify.STOPPING)
                    self.stop.set()
                elif not self.cancel_jobs.is_set():
                    _log.warning("cancelling the running jobs; the next signal ends the daemon at once")
                    self.cancel_jobs.set()
                else:
                    _log.error("ending at once: the next start settles what ran")
                    everything.cancel()
                    self.abandoned = True
                    self.ledger.close()  # its writer ends as well: nobody is to wait for a last write

    async def _pulse(self) -> None:
        """Tell systemd that we live, but only as long as the ledger's writer answers."""
        every = notify.watchdog_interval() or PULSE
        while True:
            with contextlib.suppress(LedgerUnavailable):
                await self.ledger.check_writable()
                pending = len(await self.ledger.pending_deliveries(1000))
                runs = len(await self.ledger.open_runs())
                metrics.webhook_backlog.set(pending)
                notify.notify(
                    notify.WATCHDOG, notify.status(f"{runs} runs open, {pending} deliveries waiting")
                )
            await trio.sleep(every)


def _handed_over(name: str) -> list[trio.SocketListener]:
    """The listeners systemd opened for us, if it did."""
    return listeners.systemd([name], os.environ, os.getpid()).get(name, [])


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
