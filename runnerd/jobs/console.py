"""What becomes of a step's output: commands are obeyed, secrets masked, lines logged as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio

from runnerd.jobs import commands
from runnerd.jobs.commands import CommandReader, WorkflowCommand
from runnerd.jobs.lines import Lines, Piece
from runnerd.jobs.masker import Masker
from runnerd.jobs.outcome import storable
from runnerd.jobs.ports import LogSink
from runnerd.jobs.spec import JobLimits
from runnerd.model import Annotation

_OFF = "GitHub has switched this command off, because anything that prints could use it; write to $%s instead"
_CHEAP = 2_000_000
"""Characters that are compared while the event loop waits; it is about a millisecond."""
_NOT_ECHOED = frozenset(
    {"add-mask", "debug", "error", "notice", "resume-commands", "stop-commands", "warning"}
)


class Console:
    """One step's side of the log. `annotations` and `outputs` are masked and unmasked, in this order.

    `failed` says that a command could not be obeyed, which fails the step whatever its exit status.
    """

    def __init__(
        self, number: int, log: LogSink, masker: Masker, *, workspace: str, debug: bool, limits: JobLimits
    ) -> None:
        self.annotations: list[Annotation] = []
        self.outputs: dict[str, str] = {}
        self.failed = False
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
            for piece in self._streams[stream][0].feed(data):
                await self._piece(stream, piece)

    async def end(self) -> None:
        """The process ended: log the last line even if it had no end."""
        async with self._busy:
            for stream, (lines, _) in self._streams.items():
                for piece in lines.end():
                    await self._piece(stream, piece)

    async def line(self, text: str) -> None:
        """Log text of ours, masked, line by line; nothing in it is a command."""
        await self._prefixed("", text)

    async def error(self, message: str) -> None:
        """Log an error of ours and annotate the step with it."""
        await self._annotate(Annotation(level="error", message=message, step=self._number))

    async def warning(self, message: str) -> None:
        """Log a warning of ours and annotate the step with it."""
        await self._annotate(Annotation(level="warning", message=message, step=self._number))

    async def _piece(self, stream: str, piece: Piece) -> None:
        whole = piece.first and piece.last
        if whole and (command := self._reader.read(piece.text)):
            await self._obey(command, piece.text)
            return
        if piece.first and not piece.last and piece.text.lstrip().startswith(("::add-mask", "##[add-mask")):
            # Too long to be a secret to mask: better not logged at all.
            self._dropping.add(stream)
            await self._refuse("add-mask", "the value is too long to be masked; the line was dropped")
        if stream in self._dropping:
            if piece.last:
                self._dropping.discard(stream)
            return
        mask = self._streams[stream][1]
        text = await self._hidden(self._masker.mask if whole else mask.feed, piece.text)
        if piece.last and not whole:
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
                if self._debug:
                    await self._prefixed("##[debug]", command.data)
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
            case "set-env":
                await self._refuse(command.name, _OFF % "GITHUB_ENV")
            case "add-path":
                await self._refuse(command.name, _OFF % "GITHUB_PATH")
            case "stop-commands":
                await self.line(line)
                if not self._reader.stopped:
                    await self._refuse(command.name, "its token is empty or the name of a command")
            case "resume-commands":
                await self.line(line)
            case "add-matcher" | "remove-matcher":
                await self._once(
                    command.name, "problem matchers are not applied yet; the output is logged as it is"
                )

    async def _annotate(self, note: Annotation) -> None:
        await self._prefixed(f"##[{note.level}]", note.message)
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
            await self._once("add-mask", "an empty value cannot be masked")
        elif self._masker.count >= self._limits.masks:
            await self._refuse("add-mask", f"the job masks {self._limits.masks} values already")
        else:
            self._masker.add(value)
            if self._echo:
                await self.line("::add-mask::***")

    async def _set_echo(self, value: str) -> None:
        wanted = value.strip().lower()
        if wanted not in ("on", "off"):
            await self._refuse("echo", f"its value must be 'on' or 'off', not {value[:80]!r}")
        else:
            self._echo = wanted == "on"

    async def _deprecated(self, command: WorkflowCommand) -> None:
        variable = "GITHUB_OUTPUT" if command.name == "set-output" else "GITHUB_STATE"
        await self._once(
            command.name, f"the command `{command.name}` is deprecated; write to ${variable} instead"
        )
        name = command.properties.get("name", "")
        if not name:
            await self._refuse(command.name, "the property 'name' is missing")
        elif command.name == "set-output":
            self.outputs[name] = command.data

    async def _refuse(self, name: str, why: str) -> None:
        self.failed = True
        await self.error(f"Unable to process command '{name}': {why}.")

    async def _once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            await self.warning(message[0].upper() + message[1:] + ".")
