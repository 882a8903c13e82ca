"""A checked workflow file as data: what `load` returns and everybody else reads.

Values that may hold `${{ }}` are kept as written (`Scalar`); `evaluate`, `interpolate` and `condition`
turn them into values when their contexts are known. Lines and columns count from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

Scalar = str | int | float | bool | None
"""A YAML scalar; a string may contain expressions."""


class Place(msgspec.Struct, frozen=True):
    """A position in a workflow file."""

    line: int = 1
    column: int = 1


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """`defaults.run`: what a `run` step uses when it says nothing itself."""

    shell: str | None = None
    working_directory: str | None = None


class Concurrency(msgspec.Struct, frozen=True, kw_only=True):
    """`concurrency`: the group and what happens to who waits in it."""

    group: Scalar
    cancel_in_progress: Scalar = False
    queue: str = "single"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step: exactly one of `run`, `uses` or a control keyword."""

    id: str = ""
    """As written, or empty; never starts with two underscores."""
    name: Scalar = None
    condition: Scalar = None
    """The text of `if`, with or without `${{ }}`; None means `success()`."""
    run: str | None = None
    uses: str | None = None
    with_: Mapping[str, Scalar] = msgspec.field(default_factory=dict)
    env: Mapping[str, Scalar] | str = msgspec.field(default_factory=dict)
    """A map, or one expression that gives a map."""
    shell: str | None = None
    working_directory: str | None = None
    timeout_minutes: Scalar = None
    continue_on_error: Scalar = False
    background: Scalar = False
    wait: tuple[str, ...] | None = None
    wait_all: bool = False
    cancel: tuple[str, ...] | None = None
    parallel: tuple[Step, ...] | None = None
    place: Place = Place()


class Strategy(msgspec.Struct, frozen=True, kw_only=True):
    """`strategy` as written; `matrix` is the raw map, or one expression that gives it."""

    matrix: Any = None
    fail_fast: Scalar = True
    max_parallel: Scalar = None
    place: Place = Place()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job: either `steps` on a machine, or `uses` of a reusable workflow."""

    id: str
    name: Scalar = None
    needs: tuple[str, ...] = ()
    condition: Scalar = None
    runs_on: Any = None
    """A string, a list, or a map of `group` and `labels`, each possibly an expression."""
    strategy: Strategy | None = None
    env: Mapping[str, Scalar] | str = msgspec.field(default_factory=dict)
    defaults: Defaults = Defaults()
    outputs: Mapping[str, Scalar] = msgspec.field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    timeout_minutes: Scalar = None
    cancel_timeout_minutes: Scalar = None
    continue_on_error: Scalar = False
    permissions: Any = None
    environment: Any = None
    concurrency: Concurrency | None = None
    container: Any = None
    services: Any = None
    snapshot: Any = None
    uses: str | None = None
    with_: Mapping[str, Scalar] = msgspec.field(default_factory=dict)
    secrets: Mapping[str, Scalar] | str = msgspec.field(default_factory=dict)
    """For `uses`: a map, or "inherit"."""
    called: Workflow | None = None
    """The reusable workflow behind `uses`, when it was resolved."""
    place: Place = Place()


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """One declared input of `workflow_dispatch` or `workflow_call`."""

    type: str = "string"
    required: bool = False
    default: Scalar = None
    options: tuple[str, ...] = ()
    description: str = ""


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """One event under `on`, with its filters. None means that filter was not written."""

    event: str
    types: tuple[str, ...] | None = None
    branches: tuple[str, ...] | None = None
    branches_ignore: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    tags_ignore: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    paths_ignore: tuple[str, ...] | None = None
    workflows: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    versions: tuple[str, ...] | None = None
    """`image_version` filters."""
    schedules: tuple[tuple[str, str], ...] = ()
    """(cron, time zone) pairs of `schedule`."""
    inputs: Mapping[str, Input] = msgspec.field(default_factory=dict)
    secrets: Mapping[str, bool] = msgspec.field(default_factory=dict)
    """`workflow_call` secrets: name to whether it is required."""
    outputs: Mapping[str, Scalar] = msgspec.field(default_factory=dict)
    """`workflow_call` outputs: name to its expression."""
    place: Place = Place()


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """One checked workflow file."""

    path: str
    name: str
    """`name`, or the path where none is written."""
    triggers: tuple[Trigger, ...]
    jobs: Mapping[str, Job]
    """In the order of the file."""
    run_name: Scalar = None
    env: Mapping[str, Scalar] = msgspec.field(default_factory=dict)
    defaults: Defaults = Defaults()
    permissions: Any = None
    concurrency: Concurrency | None = None
    unsupported: tuple[Problem, ...] = ()
    """What the file asks for and this version cannot do yet: the run says so and is never green.

    Those of severity `warning` are said and change nothing else."""
    warnings: tuple[Problem, ...] = ()
    """What GitHub accepts and is most likely not meant."""

    @property
    def blocking(self) -> tuple[Problem, ...]:
        """What of `unsupported` keeps a run of this file from being green."""
        return tuple(problem for problem in self.unsupported if problem.severity == "error")


class Problem(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One thing wrong with a file, for people: `path:line:column: severity: message`."""

    path: str
    line: int
    column: int
    severity: str = "error"
    message: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.severity}: {self.message}"


class WorkflowErrors(Exception):
    """A file that GitHub would refuse; `problems` has every one, in the order of the file.

    `doubtful`: the quick YAML parser refused it, and `Limits.second_opinion` forbade to ask the slow one.
    """

    def __init__(self, problems: tuple[Problem, ...], *, doubtful: bool = False) -> None:
        self.problems, self.doubtful = problems, doubtful
        super().__init__("\n".join(map(str, problems)))


class NotLookedUp(LookupError):
    """A reusable workflow that nobody looked for: its jobs are unknown, which is no mistake of the file."""


class ExpressionError(ValueError):
    """An expression that cannot be read or evaluated; `offset` counts characters from 0 in `text`."""

    def __init__(self, message: str, *, text: str = "", offset: int = 0) -> None:
        self.text, self.offset = text, offset
        super().__init__(message)


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of a matrix; a job without a matrix has one leg with `matrix` None."""

    index: int
    total: int
    name: str
    """The job's display name with this leg's values, as GitHub writes it."""
    matrix: dict[str, Any] | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One leg of a job that calls a reusable workflow, as it was made: the called jobs see this and no other.

    No secret can be in it: `with` may not name `secrets`.
    """

    key: str
    """The calling job's whole key."""
    leg: int = 0
    legs: int = 1
    name: str
    """As people see it, with the names of the calls around it."""
    matrix: dict[str, Any] | None = None
    inputs: dict[str, Any] = msgspec.field(default_factory=dict)


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an event starts a workflow, and the sentence that says why or why not."""

    matched: bool
    reason: str
    trigger: Trigger | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What untrusted input may cost, checked before the work is done."""

    text: int = 1 << 20
    second_opinion: int = 256 << 10
    """Characters that the pure YAML parser may be given where libyaml refuses: half a megabyte a second."""
    depth: int = 50
    nodes: int = 20_000
    legs: int = 256
    jobs: int = 1000
    """Jobs of a file together with those of the reusable workflows it calls."""
    calls: int = 10
    """How deep reusable workflows may call others."""
    files: int = 50
    """How many different reusable workflows one file may bring in."""
    expression: int = 21_000
    expression_depth: int = 50
    memory: int = 10 << 20
    """Bytes that one evaluation may build."""
    errors: int = 100
