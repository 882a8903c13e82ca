"""What becomes of a step's output: commands are obeyed, secrets masked, lines logged as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import trio

from runnerd.jobs import commands
from runnerd.jobs.commands import CommandReader, WorkflowCommand
from runnerd.jobs.lines import Lines, Piece
from runnerd.jobs.masker import Masker
from runnerd.jobs.matchers import Found
from runnerd.jobs.outcome import storable
from runnerd.jobs.ports import LogSink
from runnerd.jobs.problems import Problems
from runnerd.jobs.spec import JobLimits
from runnerd.model import Annotation

_OFF = (
    "The `%s` command is disabled. Please upgrade to using Environment Files or opt into unsecure command "
    "execution by setting the `ACTIONS_ALLOW_UNSECURE_COMMANDS` environment variable to `true`. For more "
    "information see: https://github.blog/changelog/2020-10-01-github-actions-deprecating-set-env-and-add-path-commands/"
)
_OLD = (
    "The `%s` command is deprecated and will be disabled soon. Please upgrade to using Environment Files. "
    "For more information see: "
    "https://github.blog/changelog/2022-10-11-github-actions-deprecating-save-state-and-set-output-commands/"
)
_CHEAP = 2_000_000
"""Characters that are compared while the event loop waits; it is about a millisecond."""
_NOT_ECHOED = frozenset(
    {"add-mask", "debug", "error", "notice", "resume-commands", "stop-commands", "warning"}
)


class Console:
    """One step's side of the log.

    `annotations` are masked; `outputs`, `variables` and `paths`, which commands set, are not. `failed` says
    that a command could not be obeyed, which fails the step whatever its exit status.
    """

    def __init__(
        self,
        number: int,
        log: LogSink,
        masker: Masker,
        *,
        workspace: str,
        debug: bool,
        limits: JobLimits,
        problems: Problems | None = None,
        masked: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`masked` is awaited when `add-mask` was obeyed, before anything that follows is read."""
        self.annotations: list[Annotation] = []
        self.outputs: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self.paths: list[str] = []
        self.failed = False
        self.unsecure = False
        """Whether `set-env` and `add-path` are obeyed: the step's ACTIONS_ALLOW_UNSECURE_COMMANDS."""
        self._problems = problems
        self._masked = masked
        self._number = number
        self._log = log
        self._masker = masker
        self._workspace = workspace
        self._debug = debug
        self._limits = limits
        self._echo = debug
        self._reader = CommandReader()
        self._streams = {name: (Lines(), masker.stream()) for name in ("stdout", "stderr")}
        self._dropping: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._warned: set[str] = set()
        self._busy = trio.Lock()

    async def output(self, stream: str, data: bytes) -> None:
        """Take bytes a process wrote; an `Output` of the machine's."""
        async with self._busy:
            await self._take(stream, self._streams[stream][0].feed(data))

    async def end(self) -> None:
        """The process ended: log the last line even if it had no end."""
        async with self._busy:
            for stream, (lines, _) in self._streams.items():
                await self._take(stream, lines.end())
            if self._problems is not None:
                await self._problems.end(self._number)

    async def line(self, text: str) -> None:
        """Log text of ours, masked, line by line; nothing in it is a command."""
        await self._prefixed("", text)

    async def error(self, message: str) -> None:
        """Log an error of ours and annotate the step with it."""
        await self._annotate(Annotation(level="error", message=message, step=self._number))

    async def warning(self, message: str) -> None:
        """Log a warning of ours and annotate the step with it."""
        await self._annotate(Annotation(level="warning", message=message, step=self._number))

    async def debug(self, text: str) -> None:
        """Log what only matters to who debugs."""
        if self._debug:
            await self._prefixed("##[debug]", text)

    async def _take(self, stream: str, pieces: Iterable[Piece]) -> None:
        plain: list[str] = []
        for piece in pieces:
            whole = piece.first and piece.last
            command = self._reader.read(piece.text) if whole else None
            if whole and command is None:
                plain.append(piece.text)
                continue
            await self._print(plain)
            plain = []
            if command is not None:
                await self._obey(command, piece.text)
            else:
                await self._part(stream, piece)
        await self._print(plain)

    async def _print(self, lines: Sequence[str]) -> None:
        """Log whole lines that are no commands; problems among them are annotated."""
        found: Mapping[int, Found] = {}
        if lines and self._problems is not None and self._problems.looking:
            found, warnings = await self._problems.look(self._number, lines)
            for warning in warnings:
                await self.warning(f"{warning}.")
        for at, line in enumerate(lines):
            if self._problems is not None and at in found:
                note = await self._problems.annotation(found[at], self._number)
                await self._annotate(note, line)
            else:
                await self._log.line(await self._hidden(self._masker.mask, line), self._number)

    async def _part(self, stream: str, piece: Piece) -> None:
        """Log one part of an overlong line."""
        if piece.first and piece.text.lstrip().startswith(("::add-mask", "##[add-mask")):
            # Too long to be a secret to mask: better not logged at all.
            self._dropping.add(stream)
            await self._refuse("add-mask", "the value is too long to be masked; the line was dropped")
        if stream in self._dropping:
            if piece.last:
                self._dropping.discard(stream)
            return
        mask = self._streams[stream][1]
        text = await self._hidden(mask.feed, piece.text)
        if piece.last:
            text += mask.end()
        if text or piece.last:
            await self._log.line(text, self._number)

    async def _hidden(self, mask: Callable[[str], str], text: str) -> str:
        # Many secrets and long lines must not hold up every other job.
        if self._masker.cost(text) < _CHEAP:
            return mask(text)
        return await trio.to_thread.run_sync(mask, text)

    async def _obey(self, command: WorkflowCommand, line: str) -> None:
        if self._echo and command.name not in _NOT_ECHOED:
            await self.line(line)
        match command.name:
            case "error" | "warning" | "notice":
                await self._annotate(
                    commands.annotation(command, step=self._number, workspace=self._workspace)
                )
            case "debug":
                await self.debug(command.data)
            case "group":
                await self.line(f"##[group]{command.data}")
            case "endgroup":
                await self.line("##[endgroup]")
            case "add-mask":
                await self._mask(command.data)
            case "echo":
                await self._set_echo(command.data)
            case "set-output" | "save-state":
                await self._deprecated(command)
            case "set-env" | "add-path":
                await self._unsecure(command)
            case "stop-commands":
                await self.line(line)
                if not self._reader.stopped:
                    await self._refuse(command.name, "its token is empty or the name of a command")
            case "resume-commands":
                await self.line(line)
            case "add-matcher" | "remove-matcher":
                await self._match(command)

    async def _annotate(self, note: Annotation, shown: str | None = None) -> None:
        """Keep an annotation, and log it: its message, or the line it was found in."""
        await self._prefixed(f"##[{note.level}]", note.message if shown is None else shown)
        self._counts[note.level] += 1
        if self._counts[note.level] <= self._limits.annotations:

            def mask(text: str) -> str:
                return storable(self._masker.mask(text))

            self.annotations.append(
                Annotation(
                    level=note.level,
                    message=mask(note.message),
                    title=mask(note.title),
                    path=mask(note.path),
                    line=note.line,
                    end_line=note.end_line,
                    column=note.column,
                    end_column=note.end_column,
                    step=note.step,
                )
            )

    async def _prefixed(self, prefix: str, text: str) -> None:
        # Masked as a whole first: a secret of several lines is in the message, not in its lines.
        for number, line in enumerate(self._masker.mask(text).splitlines() or [""]):
            await self._log.line(line if number else prefix + line, self._number)

    async def _mask(self, value: str) -> None:
        if not value.strip():
            await self._once("add-mask", "An empty value cannot be masked.")
        elif self._masker.count >= self._limits.masks:
            await self._refuse("add-mask", f"the job masks {self._limits.masks} values already")
        else:
            self._masker.add(value)
            if self._masked is not None:
                await self._masked()
            if self._echo:
                await self.line("::add-mask::***")

    async def _set_echo(self, value: str) -> None:
        wanted = value.strip().lower()
        if wanted not in ("on", "off"):
            await self._refuse("echo", f"its value must be 'on' or 'off', not {value[:80]!r}")
        else:
            self._echo = wanted == "on"

    async def _deprecated(self, command: WorkflowCommand) -> None:
        await self._once(command.name, _OLD % command.name)
        name = command.properties.get("name", "")
        if not name:
            await self._refuse(command.name, "the property 'name' is missing")
        elif command.name == "set-output":
            self.outputs[name] = command.data

    async def _unsecure(self, command: WorkflowCommand) -> None:
        name = command.properties.get("name", "")
        if not self.unsecure:
            await self._refuse(command.name, _OFF % command.name)
        elif command.name == "add-path" and command.data:
            self.paths.append(command.data)
        elif command.name == "set-env" and name:
            self.variables[name] = command.data
        else:
            await self._refuse(command.name, "the variable's name or the path is missing")

    async def _match(self, command: WorkflowCommand) -> None:
        owner, path = command.properties.get("owner", ""), command.data
        if self._problems is None:
            return
        try:
            if command.name == "add-matcher" and path:
                await self._problems.add(path)
            elif command.name == "remove-matcher" and bool(owner) is not bool(path):
                await self._problems.remove(owner=owner, path=path)
            else:
                await self.warning(
                    "add-matcher needs a file's path."
                    if command.name == "add-matcher"
                    else "remove-matcher needs either an owner or a file's path."
                )
        except (OSError, ValueError) as error:
            await self._refuse(command.name, f"{path}: {error}")

    async def _refuse(self, name: str, why: str) -> None:
        self.failed = True
        await self.error(f"Unable to process command '{name}': {why}{'' if why.endswith('/') else '.'}")

    async def _once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            await self.warning(message)
