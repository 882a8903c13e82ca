"""Which secrets a part of a workflow can name, and whether its token, found by reading its expressions.

None is run. Only what is named is handed to a job: what never enters a machine cannot leave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from runnerd.workflow.calls import Scope
from runnerd.workflow.expressions.nodes import Call, Compare, Index, Literal, Logical, Named, Node, Not
from runnerd.workflow.expressions.parser import parse
from runnerd.workflow.expressions.template import templated
from runnerd.workflow.model import ExpressionError, Job, Step, Workflow

_OPEN = "${{"
_SECRETS = "secrets"
_GITHUB = "github"
_TOKEN = "GITHUB_TOKEN"
_ELSEWHERE = frozenset({"called"})
"""Fields of a job that say what another one does."""


def named_secrets(workflow: Workflow, job: Job) -> frozenset[str] | None:
    """Return the secrets a job can name, in upper case; None where it may name any.

    It may name any where it uses the `secrets` context whole (`toJSON(secrets)`, `secrets.*`), by a name
    made as it runs (`secrets[matrix.key]`), by `secrets: inherit`, or in a text that cannot be read.
    """
    if job.secrets == "inherit":
        return None
    names: set[str] = set()
    for text, bare in _texts((workflow.env, job), False, _SECRETS):
        found = _of_text(text, bare, _SECRETS)
        if found is None:
            return None
        names |= found
    return frozenset(names)


def named_at_root(scope: Scope, job: Job) -> frozenset[str] | None:
    """Return the run's own secrets that a job can name through the calls that lead to it; None for any."""
    names = named_secrets(scope.workflow, job)
    while scope.outer is not None and scope.job is not None:
        passed, scope = scope.job.secrets, scope.outer
        if passed == "inherit":
            continue
        values = passed.items() if isinstance(passed, Mapping) else ()
        names = _of_values(value for name, value in values if names is None or name.upper() in names)
        if names is None:
            return None
    return names


def names_token(scope: Scope, job: Job) -> bool:
    """Whether a job can name its token: as `github.token`, as a secret, or through what calls hand down.

    A step that uses anything but a checkout counts, for an action may name it by itself.
    """
    if any(_foreign(step) for step in job.steps or ()):
        return True
    named = named_secrets(scope.workflow, job)
    if named is None or _TOKEN in named or _has_token((scope.workflow.env, scope.workflow.defaults, job)):
        return True
    named = named_at_root(scope, job)
    if named is None or _TOKEN in named:
        return True
    while scope.outer is not None and scope.job is not None:
        if _has_token((scope.job.with_, scope.job.secrets)):
            return True
        scope = scope.outer
    return False


def _foreign(step: Step) -> bool:
    if step.parallel is not None:
        return any(_foreign(each) for each in step.parallel)
    return step.uses is not None and not step.uses.lower().startswith("actions/checkout@")


def _has_token(part: Any) -> bool:
    for text, bare in _texts(part, False, _GITHUB):
        found = _of_text(text, bare, _GITHUB)
        if found is None or "TOKEN" in found:
            return True
    return False


def _of_values(values: Iterable[Any]) -> frozenset[str] | None:
    names: set[str] = set()
    for value in values:
        found = _of_text(value, False, _SECRETS) if isinstance(value, str) else set()
        if found is None:
            return None
        names |= found
    return frozenset(names)


def _texts(value: Any, bare: bool, word: str) -> Iterator[tuple[str, bool]]:
    """Every text within that has the word, and whether it is an expression without braces."""
    if isinstance(value, str):
        if word in value.lower():
            yield value, bare
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            if field not in _ELSEWHERE:
                yield from _texts(getattr(value, field), field == "condition", word)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key, False, word)
            yield from _texts(inner, False, word)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _texts(inner, bare, word)


def _of_text(text: str, bare: bool, word: str) -> set[str] | None:
    if _OPEN not in text and not bare:
        return set()
    try:
        expressions = [part.text for part in templated(text).expressions] if _OPEN in text else [text]
        names: set[str] = set()
        for expression in expressions:
            found = _of_node(parse(expression), word)
            if found is None:
                return None
            names |= found
    except ExpressionError:
        return None
    return names


def _of_node(node: Node, word: str) -> set[str] | None:
    """The names below the context `word`; None for all of it. No deeper than an expression may be."""
    match node:
        case Named(name=name):
            return None if name.lower() == word else set()
        case Index(target=Named(name=name), key=key) if name.lower() == word:
            if isinstance(key, Literal) and isinstance(key.value, str):
                return {key.value.upper()}
            return None
        case Index(target=target, key=key):
            inner = [target, *([key] if key else [])]
        case Not(operand=operand):
            inner = [operand]
        case Compare(left=left, right=right):
            inner = [left, right]
        case Logical(operands=operands):
            inner = operands
        case Call(arguments=arguments):
            inner = arguments
        case _:
            inner = []
    names: set[str] = set()
    for each in inner:
        found = _of_node(each, word)
        if found is None:
            return None
        names |= found
    return names
