"""Text of a workflow file to a checked `Workflow`, or every problem in it at once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from runnerd.workflow import yaml
from runnerd.workflow.model import Limits, Problem, Workflow, WorkflowErrors
from runnerd.workflow.reader.jobs import jobs
from runnerd.workflow.reader.on import triggers
from runnerd.workflow.reader.reusable import Caller, attach
from runnerd.workflow.reader.scalars import free, text, text_map
from runnerd.workflow.reader.scope import NOWHERE, RUN, WORKFLOW_ENV, Scope
from runnerd.workflow.reader.settings import concurrency, defaults, permissions
from runnerd.workflow.reader.source import Field, Source, Table
from runnerd.workflow.yaml import Map

_LIMITS = Limits()
FEATURES = frozenset(("containers", "services"))
"""What `features` may name: parts of the language that a caller may or may not be able to run."""


def load(
    text: str,
    *,
    path: str,
    resolve: Callable[[str], str] | None = None,
    limits: Limits = _LIMITS,
    features: frozenset[str] = frozenset(),
    permissions: Mapping[str, str] | None = None,
) -> Workflow:
    """Read and check one workflow file.

    `resolve` gives the text of a reusable workflow by what `uses` says; it raises LookupError with a
    sentence where there is none. `features` says what the caller can run; what it cannot is in
    `Workflow.unsupported`.
    `permissions` are the token's where the file says nothing; without them only what files say is compared.
    Problems of a called file have that file's name as their path.

    Raises `WorkflowErrors` with every problem of the file, in its order. Nothing else, whatever the text.
    """
    return _load(text, path, limits, features, Caller(resolve=resolve, permissions=permissions))


def _load(content: str, path: str, limits: Limits, features: frozenset[str], caller: Caller) -> Workflow:
    document = yaml.read(content, path=path, limits=limits)
    source = Source(path, limits, features)
    source.problems.extend(document.problems)
    root = source.mapping(document.root, document.at)
    if root is None:
        raise WorkflowErrors(tuple(source.problems))
    fields = source.fields(root, _WORKFLOW, "key of a workflow")
    for key in ("on", "jobs"):
        if key not in root:
            source.missing(document.at, key, "a workflow")
    name = _name(root) or path
    fields = {key: value for key, value in fields.items() if value is not None and key != "name"}
    fields.pop("description", None)
    workflow = Workflow(
        path=path,
        name=name,
        triggers=fields.pop("triggers", ()),
        jobs=fields.pop("jobs", {}),
        **fields,
    )
    if not source.problems:
        workflow = attach(source, workflow, root, caller, _load)
    if source.problems:
        raise WorkflowErrors(tuple(sorted(source.problems))[: limits.errors])
    return msgspec.structs.replace(
        workflow, unsupported=tuple(source.unsupported), warnings=tuple(source.warnings)
    )


def _name(root: Map) -> str:
    """`name` as written: 1.10 stays 1.10."""
    value = root.get("name")
    if value is None or isinstance(value, dict | list):
        return ""
    return value if isinstance(value, str) else root.raw("name")


def _env(source: Source, value: Any, at: Any, scope: Scope) -> Any:
    return text_map(source, value, at, scope) if value is not None else {}


_WORKFLOW: Table = {
    "name": Field("name", text, NOWHERE),
    "description": Field("description", free, NOWHERE),
    "run-name": Field("run_name", text, RUN),
    "on": Field("triggers", triggers, NOWHERE),
    "env": Field("env", _env, WORKFLOW_ENV),
    "defaults": Field("defaults", defaults, NOWHERE),
    "permissions": Field("permissions", permissions, NOWHERE),
    "concurrency": Field("concurrency", concurrency, RUN),
    "jobs": Field("jobs", jobs, NOWHERE),
}


Found = Workflow | tuple[Problem, ...]
"""What a file came to: the workflow, or its problems."""
CACHED_FILES = 256
CACHED_TEXT = 4 << 20
"""Characters of the files whose results are kept."""


class _Cache:
    """The most recently used results by the hash of what they were made from, bounded by the text's size."""

    def __init__(self, files: int, text: int) -> None:
        self._files, self._text, self._lock = files, text, threading.Lock()
        self._kept: OrderedDict[tuple[bytes, str, frozenset[str]], tuple[Found, int]] = OrderedDict()
        self._size = 0

    def get(self, content: str, path: str, features: frozenset[str]) -> Found | None:
        key = _key(content, path, features)
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, content: str, path: str, features: frozenset[str], found: Found) -> None:
        key, size = _key(content, path, features), len(content)
        with self._lock:
            self._size += size - self._kept.pop(key, (found, 0))[1]
            self._kept[key] = found, size
            while self._size > self._text or len(self._kept) > self._files:
                self._size -= self._kept.popitem(last=False)[1][1]


def _key(content: str, path: str, features: frozenset[str]) -> tuple[bytes, str, frozenset[str]]:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest(), path, features


_CACHE = _Cache(CACHED_FILES, CACHED_TEXT)


def recall(text: str, path: str, *, features: frozenset[str] = frozenset()) -> Found | None:
    """What is remembered of a text by its sha256: its workflow, its problems, or None for nothing."""
    return _CACHE.get(text, path, features)


def remember(text: str, path: str, found: Found, *, features: frozenset[str] = frozenset()) -> None:
    """Keep what a text came to, for `recall` and `load_cached`."""
    _CACHE.put(text, path, features, found)


def load_cached(text: str, path: str, *, features: frozenset[str] = frozenset()) -> Workflow:
    """Like `load` without `resolve`, remembered by the text's sha256; the problems of a bad file too."""
    found = recall(text, path, features=features)
    if found is None:
        try:
            found = load(text, path=path, features=features)
        except WorkflowErrors as errors:
            found = errors.problems
        remember(text, path, found, features=features)
    if isinstance(found, tuple):
        raise WorkflowErrors(found)
    return found
