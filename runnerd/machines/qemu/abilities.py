"""What the QEMU of this host can do, as it says itself: nothing is guessed from the number of its version.

By QEMU's own reference `migrate` and `migrate-incoming` take `channels` since 8.2, and `fd:` that is a plain
file is deprecated since 9.1, to be refused. A pipe was taken by each version that was tried, 7.2, 10.0 and
11.1, so that states go through pipes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import trio

from runnerd.machines.qemu import vmm

OLDEST = (7, 2)
"""The version this driver was made with; none before it was ever tried."""

COMMANDS = (
    *("cont", "getfd", "migrate", "migrate-incoming", "migrate-set-capabilities"),
    *("qmp_capabilities", "query-migrate", "query-status", "stop"),
)
"""What a machine's monitor is told from its start to its end."""

SNAPSHOT_COMMANDS = ("add-fd", "remove-fd", "xen-save-devices-state")
"""What it is told beside that where a used machine is kept: a QEMU without them keeps none."""

CAPABILITIES = ("events", "x-ignore-shared")
"""What a migration is told to do: to say how far it is, and to leave memory alone that is a file of ours."""

QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("qmp_capabilities", {}),
    ("query-version", {}),
    ("query-machines", {}),
    ("qom-list-types", {"implements": "device", "abstract": False}),
    ("query-qmp-schema", {}),
)
"""Command and arguments, in the order they are given; each is its own id."""

WORDS = ("-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio")
"""The arguments of a QEMU that is only asked."""

_LONGEST = 16 << 20
"""Bytes of one answer; the schema of 7.2 has 200 kB."""

_PATIENCE = 20.0
"""Seconds for all answers; they take a tenth of one."""

_known: dict[tuple[str, int, int], Abilities] = {}
"""Program file, with its size and time of change -> what it can do: asked once in a process's life."""


class Unusable(Exception):
    """This QEMU cannot be used: says what it lacks, and what to do."""


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What one QEMU says of itself."""

    version: str
    """With the package's name for it: another build may differ in what it saves."""
    number: tuple[int, int]
    boards: frozenset[str]
    devices: frozenset[str]
    commands: frozenset[str]
    capabilities: frozenset[str]
    channels: bool
    """Migrations can be given a structured address instead of a text."""

    def board(self, wanted: str = "auto") -> vmm.Board:
        """The board machines shall have; "auto" is the smallest there is. Raises Unusable."""
        name = f"QEMU {self.version}"
        oldest = ".".join(map(str, OLDEST))
        if self.number < OLDEST:
            raise Unusable(f"{name} is too old: machines need {oldest} or later")
        self._need(name, "command", self.commands, COMMANDS)
        self._need(name, "migration capability", self.capabilities, CAPABILITIES)
        boards: tuple[vmm.Board, ...] = tuple(
            board for board in vmm.BOARDS if board in self.boards and wanted in ("auto", board)
        )
        if not boards:
            what = "that we know" if wanted == "auto" else wanted
            other = " or ".join(sorted(set(vmm.BOARDS) & self.boards)) or "another QEMU"
            raise Unusable(f"{name} has no machine type {what}: use {other}")
        self._need(name, "device", self.devices, vmm.DEVICES[boards[0]])
        return boards[0]

    @property
    def snapshots(self) -> bool:
        """Whether machines can be kept in the middle of their work."""
        return self.commands.issuperset(SNAPSHOT_COMMANDS)

    @staticmethod
    def _need(name: str, kind: str, there: frozenset[str], wanted: Sequence[str]) -> None:
        absent = sorted(set(wanted) - there)
        if absent:
            raise Unusable(
                f"{name} has no {kind} {', '.join(absent)}, which machines need: it is a version or a build "
                "that this driver does not know; use another one"
            )


async def probe(qemu: str) -> Abilities:
    """Start QEMU without a machine and ask it. Raises Unusable when it does not answer, or not in its way."""
    try:
        found = os.stat(qemu)
        key = (qemu, found.st_size, found.st_mtime_ns)
        if key not in _known:
            _known[key] = read(await _ask(qemu))
        return _known[key]
    except OSError as error:
        raise Unusable(f"{qemu} cannot be started: {error}") from error


def questions() -> tuple[dict[str, Any], ...]:
    """`QUESTIONS` as QEMU is asked them."""
    return tuple(
        {"execute": name, "id": name} | ({"arguments": arguments} if arguments else {})
        for name, arguments in QUESTIONS
    )


async def _ask(qemu: str) -> dict[str, Any]:
    asked = "".join(json.dumps(question) + "\n" for question in questions())
    answers: dict[str, Any] = {}
    complaint = bytearray()
    with trio.move_on_after(_PATIENCE) as scope:
        process = await trio.lowlevel.open_process(
            [qemu, *WORDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep, _stream(process.stderr), complaint)
                nursery.start_soon(_tell, _stream(process.stdin), asked.encode())
                await _hear(_stream(process.stdout), answers)
                if len(answers) == len(QUESTIONS):
                    # Only now: told to quit, it would drop what it had yet to write.
                    process.kill()
                await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for stream in (process.stdin, process.stdout, process.stderr):
                    await trio.aclose_forcefully(_stream(stream))
    if scope.cancelled_caught:
        raise Unusable(f"{qemu} did not say within {_PATIENCE:g} s what it can do")
    absent = [name for name, _ in QUESTIONS if name not in answers]
    if absent:
        last = complaint.decode("utf-8", "replace").strip() or f"status {process.returncode}"
        raise Unusable(f"{qemu} cannot be asked what it can do: no answer to {absent[0]} ({last})")
    return answers


def _stream(stream: Any) -> Any:
    """A stream of a process that was started with one."""
    assert stream is not None
    return stream


async def _tell(stream: trio.abc.SendStream, questions: bytes) -> None:
    try:
        await stream.send_all(questions)
    except trio.BrokenResourceError:
        pass  # it has ended, and says why


async def _hear(stream: trio.abc.ReceiveStream, answers: dict[str, Any]) -> None:
    """Take answers until there are all, the stream ends, or one is too long."""
    buffer = b""
    async for data in stream:
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict) and "return" in message and message.get("id") in dict(QUESTIONS):
                answers[message["id"]] = message["return"]
        if len(buffer) > _LONGEST or len(answers) == len(QUESTIONS):
            return


async def _keep(stream: trio.abc.ReceiveStream, said: bytearray) -> None:
    """Keep the last of what a process complains of."""
    async for data in stream:
        said += data
        del said[:-300]


def read(answers: Mapping[str, Any]) -> Abilities:
    """Make sense of the answers to `QUESTIONS`. Raises Unusable when they are not what QEMU documents."""
    try:
        version = answers["query-version"]
        number = version["qemu"]
        schema = {entry["name"]: entry for entry in answers["query-qmp-schema"]}
        machines = answers["query-machines"]
        package = f" ({version['package']})" if version.get("package") else ""
        return Abilities(
            version=f"{number['major']}.{number['minor']}.{number['micro']}{package}",
            number=(int(number["major"]), int(number["minor"])),
            boards=frozenset(
                name for each in machines for name in (each["name"], each.get("alias")) if name is not None
            ),
            devices=frozenset(each["name"] for each in answers["qom-list-types"]),
            commands=frozenset(each["name"] for each in schema.values() if each["meta-type"] == "command")
            | {"qmp_capabilities"},
            capabilities=_capabilities(schema),
            channels=all(_takes(schema, name, "channels") for name in ("migrate", "migrate-incoming")),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise Unusable(f"QEMU does not describe itself as it should: {error!r}") from error


def _takes(schema: Mapping[str, Any], command: str, argument: str) -> bool:
    if command not in schema:
        return False
    members = schema[schema[command]["arg-type"]]["members"]
    return any(member["name"] == argument for member in members)


def _capabilities(schema: Mapping[str, Any]) -> frozenset[str]:
    """The values of the enumeration that `migrate-set-capabilities` takes in its list."""
    if "migrate-set-capabilities" not in schema:
        return frozenset()
    (members,) = schema[schema["migrate-set-capabilities"]["arg-type"]]["members"]
    element = schema[schema[members["type"]]["element-type"]]
    kind = next(member["type"] for member in element["members"] if member["name"] == "capability")
    return frozenset(member["name"] for member in schema[kind]["members"])
