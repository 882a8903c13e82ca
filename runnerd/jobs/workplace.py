"""A job's folders and files in its machine: made at the start, a step's own files read after it.

A step costs three round trips: its script goes in, it runs, and its files come back together.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec
import trio

from runnerd.jobs import hashing
from runnerd.jobs.contexts import FILES
from runnerd.jobs.shells import PROBED
from runnerd.machines.driver import Command, Machine

_READ = ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")

_ANSWER = 64 << 10


class Unusable(Exception):
    """The machine is there but cannot be worked in; says why."""


class StepFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What a step wrote to its files, by variable; `problems` where a file could not be taken."""

    texts: Mapping[str, str]
    problems: Mapping[str, str]


class Workplace:
    """The job's place in one machine. `shells` maps the programs found to where they are."""

    def __init__(self, machine: Machine, workspace: str, environment: Mapping[str, str]) -> None:
        self.workspace = workspace
        self.temp = machine.paths.temp
        self.event_path = f"{self.temp}/_github_workflow/event.json"
        self.shells: dict[str, str] = {}
        self.used = False
        """Whether the workspace may hold something."""
        self._machine = machine
        self._environment = dict(environment)
        self._folder = f"{self.temp}/_runner_file_commands"

    async def prepare(self, steps: int, event: Mapping[str, Any]) -> None:
        """Make the empty workspace, the files of every step and the event's file, and look for shells.

        Raises `Unusable`, and `MachineLost`.
        """
        # The files of every step at once: their making costs a step nothing.
        files = [path for step in range(1, steps + 1) for path in self.files(step).values()]
        try:
            await self._machine.put(self.event_path, msgspec.json.encode(event))
            self.shells = await self._machine.lay_out(
                (self.workspace, self._folder), files, programs=PROBED, search=self._environment["PATH"]
            )
        except (OSError, ValueError) as error:
            raise Unusable(f"the machine's folders could not be made: {error}") from error

    def resume(self, shells: Mapping[str, str], *, used: bool) -> None:
        """The machine was prepared before, and is as a job left it: nothing is made anew."""
        self.shells = dict(shells)
        self.used = used

    def files(self, step: int) -> dict[str, str]:
        """Return the path of each of a step's files, by variable."""
        return {variable: f"{self._folder}/{name}_{step}" for variable, name in FILES.items()}

    async def put_script(self, step: int, suffix: str, text: str) -> str:
        """Write a step's script, byte for byte, and return its path; half a surrogate pair becomes `?`."""
        path = f"{self.temp}/step_{step}{suffix}"
        await self._machine.put(path, text.encode(errors="replace"), mode=0o755)
        return path

    async def read(self, step: int, limits: Mapping[str, int]) -> StepFiles:
        """Read a step's files, all at once; `limits` gives the most bytes of each, by variable.

        A file that is gone counts as empty; one that is too large, or no regular file, is a problem.
        """
        paths = self.files(step)
        found = await self._machine.get_all({paths[variable]: limits[variable] for variable in _READ})
        texts: dict[str, str] = {}
        problems: dict[str, str] = {}
        for variable in _READ:
            data = found[paths[variable]]
            if isinstance(data, bytes):
                texts[variable] = data.decode(errors="replace")
                continue
            texts[variable] = ""
            if not isinstance(data, FileNotFoundError):
                problems[variable] = str(data)
        return StepFiles(texts=texts, problems=problems)

    async def read_file(self, path: str, limit: int) -> bytes:
        """Read a file of the machine, of at most `limit` bytes; raises OSError and ValueError."""
        return await self._machine.get(path, limit=limit)

    async def is_file(self, path: str) -> bool:
        """Whether there is such a file in the machine."""
        try:
            await self._machine.get(path, limit=0)
        except OSError:
            return False
        except ValueError:
            return True  # it holds something
        return True

    async def empty(self, folder: str) -> None:
        """Remove all that is in a folder of the workspace."""
        status, _, errors = await self._capture(
            ("find", folder, "-mindepth", "1", "-delete"), cwd=self.workspace, limit=_ANSWER
        )
        if status != 0 and "No such file" not in errors:
            raise OSError(f"the folder {folder} could not be emptied: {errors}")

    async def hash_files(self, patterns: tuple[str, ...], *, seconds: float) -> str:
        """Hash the workspace's files that patterns find, in the machine; raises `OSError` if it cannot."""
        if "python3" not in self.shells:
            raise OSError("hashFiles needs python3 in the machine's image")
        argv = (self.shells["python3"], "-I", "-c", inspect.getsource(hashing), self.workspace, *patterns)
        with trio.move_on_after(seconds):
            status, answer, errors = await self._capture(argv, cwd=self.workspace, limit=_ANSWER)
            if status != 0:
                raise OSError(f"hashFiles failed: {errors or f'status {status}'}")
            return answer.strip()
        raise OSError(f"hashFiles took longer than {seconds:g} s")

    async def _capture(self, argv: tuple[str, ...], *, cwd: str, limit: int) -> tuple[int | None, str, str]:
        kept: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

        async def keep(stream: str, data: bytes) -> None:
            room = limit - len(kept[stream])
            kept[stream] += data[:room]

        ended = await self._machine.exec(Command(argv=argv, env=self._environment, cwd=cwd), keep)
        texts = [kept[name].decode(errors="replace") for name in ("stdout", "stderr")]
        return ended.code, texts[0], texts[1].strip()[-1000:]
