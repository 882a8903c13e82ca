"""What is read of a payload: its shape event by event, and the names in it that must be what they say.

Names that become paths, refs or addresses are checked here once, so that no other room has to.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from runnerd.model import Actor, Repository

MAX_DEPTH = 64
"""How deep a payload may nest; GitHub's own stay under ten."""

ZERO = re.compile(r"0{40}(0{24})?")
"""The commit that is none: a ref's before at its creation, its after at its deletion."""

_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_FULL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_.-]{1,100}")
_FORBIDDEN_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/$|\.$|\.lock(/|$)")

Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Action = Annotated[str, Meta(max_length=100)]
ShapeT = TypeVar("ShapeT")


class Malformed(Exception):
    """The delivery is not what it says it is; the sentence says where."""


class GivenAccount(Struct):
    """An account as a payload names it."""

    id: Id = 0
    login: Annotated[str, Meta(max_length=200)] = ""


class GivenRepository(Struct):
    """A repository as a payload names it."""

    full_name: str
    id: Id | UnsetType = UNSET
    default_branch: Annotated[str, Meta(max_length=255)] | None = None
    private: bool = False
    html_url: Annotated[str, Meta(max_length=2000)] | None = None


class Commit(Struct):
    """What is read of a commit."""

    id: str = ""
    message: str | None = None


class Push(Struct):
    """A branch or tag that was moved."""

    repository: GivenRepository
    ref: str
    after: str | UnsetType = UNSET
    before: str | UnsetType = UNSET
    deleted: bool = False
    head_commit: Commit | None = None
    sender: GivenAccount | None = None


class HeadRepository(Struct):
    """The repository a side of a pull request lies in."""

    id: Id


class Side(Struct):
    """One side of a pull request."""

    ref: str
    sha: str
    repo: HeadRepository | None


class Pull(Struct):
    """What is read of a pull request."""

    number: Number | UnsetType = UNSET
    head: Side | UnsetType = UNSET
    base: Side | UnsetType = UNSET
    merged: bool | None = None
    merge_commit_sha: str | None = None


class PullRequest(Struct):
    """Also a review and a comment on a diff, which have the number in the pull request alone."""

    action: Action
    repository: GivenRepository
    number: Number | UnsetType = UNSET
    pull_request: Pull | UnsetType = UNSET
    sender: GivenAccount | None = None


class Dispatch(Struct):
    """A start by hand."""

    ref: str
    repository: GivenRepository
    workflow: Annotated[str, Meta(min_length=1, max_length=1000)]
    inputs: dict[str, str | int | float | bool | None] | None
    sender: GivenAccount | None = None


class RefChange(Struct):
    """A branch or tag that was created or deleted, by its short name."""

    ref: str
    ref_type: str
    repository: GivenRepository
    sender: GivenAccount | None = None


class _Release(Struct):
    tag_name: str
    draft: bool = False


class Release(Struct):
    """A release."""

    action: Action
    release: _Release
    repository: GivenRepository
    sender: GivenAccount | None = None


class _MergeGroup(Struct):
    head_sha: str
    head_ref: str
    base_sha: str
    base_ref: str


class MergeGroup(Struct):
    """A group of GitHub's merge queue."""

    action: Action
    merge_group: _MergeGroup
    repository: GivenRepository
    sender: GivenAccount | None = None


class _Deployment(Struct):
    sha: str
    ref: str


class Deployment(Struct):
    """A deployment, or its status."""

    deployment: _Deployment
    repository: GivenRepository
    action: Action | None = None
    sender: GivenAccount | None = None


class _Version(Struct):
    target_oid: str | None = None
    target_commitish: str | None = None
    tag_name: str | None = None


class _Package(Struct):
    package_version: _Version | None = None


class Package(Struct):
    """A package that was published."""

    action: Action
    registry_package: _Package
    repository: GivenRepository
    sender: GivenAccount | None = None


class Anything(Struct):
    """What every event has that happens on the default branch."""

    repository: GivenRepository
    action: Action | None = None
    sender: GivenAccount | None = None


class Ping(Struct):
    """The first delivery of a webhook."""

    hook_id: Id
    zen: str = ""


class _Keys(NamedTuple):
    """The keys by which a body shows that it is of an event, and those by which that it is of another."""

    needed: frozenset[str]
    foreign: frozenset[str] = frozenset()


def _keys(needed: str, foreign: str = "") -> _Keys:
    return _Keys(frozenset(needed.split()), frozenset(foreign.split()))


_SUBJECTS = (
    "answer build check_run check_suite comment deployment deployment_status discussion forkee issue label "
    "merge_group milestone pages pull_request ref registry_package release review rule sha starred_at "
    "thread workflow workflow_job workflow_run schedule hook client_payload"
)
"""Keys that name what an event is about."""

KEYS: dict[str, _Keys] = {
    "branch_protection_rule": _keys("action rule"),
    "check_run": _keys("action check_run", "deployment_status"),
    "check_suite": _keys("action check_suite"),
    "create": _keys("ref ref_type master_branch"),
    "delete": _keys("ref ref_type", "master_branch"),
    "deployment": _keys("deployment", "deployment_status workflow_job"),
    "deployment_status": _keys("deployment deployment_status"),
    "discussion": _keys("action discussion", "comment"),
    "discussion_comment": _keys("action discussion comment"),
    "fork": _keys("forkee"),
    "gollum": _keys("pages"),
    "image_version": _keys("action image_version"),
    "issue_comment": _keys("action issue comment"),
    "issues": _keys("action issue", "comment"),
    "label": _keys("action label", "issue pull_request discussion"),
    "merge_group": _keys("action merge_group"),
    "milestone": _keys("action milestone", "issue pull_request"),
    "page_build": _keys("build"),
    "ping": _keys("hook_id"),
    "public": _keys("", f"action {_SUBJECTS}"),
    "pull_request": _keys("action", "review comment issue discussion thread ref"),
    "pull_request_review": _keys("action pull_request review", "comment thread"),
    "pull_request_review_comment": _keys("action pull_request comment", "review thread"),
    "pull_request_target": _keys("action", "review comment issue discussion thread ref"),
    "push": _keys("ref", "ref_type workflow action deployment"),
    "registry_package": _keys("action registry_package"),
    "release": _keys("action release"),
    "repository_dispatch": _keys("action client_payload", _SUBJECTS.replace(" client_payload", "")),
    "schedule": _keys("schedule", "action"),
    "status": _keys("sha state context"),
    "watch": _keys("action", _SUBJECTS),
    "workflow_dispatch": _keys("ref workflow inputs", "deployment"),
    "workflow_run": _keys("action workflow_run workflow", "deployment check_run"),
}
"""By event. A name is a header that the signature does not cover; what a body is shows in its keys."""


def check_keys(name: str, payload: dict[str, Any]) -> None:
    """Raise `Malformed` for a body that is not this event's."""
    needed, foreign = KEYS[name]
    if missing := sorted(needed - payload.keys()):
        raise Malformed(f"the body is not that of {name}: it has no {missing[0]}")
    if other := sorted(foreign & payload.keys()):
        raise Malformed(f"the body is not that of {name}: it has {other[0]}")


_OBJECT = msgspec.json.Decoder(dict[str, Any])


def read(payload: dict[str, Any], shape: type[ShapeT]) -> ShapeT:
    """Read what an event's shape names out of its payload; the rest may be anything."""
    try:
        return msgspec.convert(payload, shape)
    except msgspec.ValidationError as error:
        # The body's own bytes are never quoted: msgspec names the place and the types alone.
        raise Malformed(f"the body is not as this event's should be: {error}") from None


def payload_of(body: bytes) -> dict[str, Any]:
    """Decode a whole body, refusing what could not be stored or encoded again."""
    try:
        payload = _OBJECT.decode(body)
    except RecursionError:
        raise Malformed("the body nests too deep") from None
    except (msgspec.MsgspecError, UnicodeError, ValueError) as error:
        detail = "it is not UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise Malformed(f"the body is not a JSON object: {detail}") from None
    level: list[Any] = [payload]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, int) and not -(2**63) <= value < 2**64:
                raise Malformed("the body holds a number of more than 64 bits")
        if not below:
            return payload
        level = below
    raise Malformed(f"the body nests deeper than {MAX_DEPTH} levels")


def repository(given: GivenRepository, exact: bool) -> Repository:
    """Check a repository's name: it becomes part of paths and of the remote's address."""
    if exact and given.id is UNSET:
        raise Malformed("the repository has no id")
    if not _FULL_NAME.fullmatch(given.full_name) or given.full_name.endswith(("/.", "/..", ".git")):
        raise Malformed("repository.full_name is not OWNER/NAME as a forge writes it")
    return Repository(
        id=0 if given.id is UNSET else given.id,
        full_name=given.full_name,
        default_branch=branch(given.default_branch or "main", "repository.default_branch"),
        private=given.private,
        html_url=given.html_url or "",
    )


def sender(given: GivenAccount | None) -> Actor:
    """Who did it; number 0 where the payload does not say."""
    return Actor(id=given.id, login=given.login) if given else Actor(id=0, login="")


def is_sha(text: str) -> bool:
    """Whether this is a full commit id."""
    return bool(_SHA.fullmatch(text))


def sha(text: str, where: str) -> str:
    """Accept a full commit id."""
    if not _SHA.fullmatch(text):
        raise Malformed(f"{where} is not a full commit id")
    return text


def ref(text: str, where: str) -> str:
    """Accept a full branch or tag name by git's own rules (git-check-ref-format)."""
    if not text.startswith(("refs/heads/", "refs/tags/")):
        raise Malformed(f"{where} is neither a branch nor a tag")
    branch(text.split("/", 2)[2], where)
    return text


def branch(text: str, where: str) -> str:
    """Accept a short branch or tag name."""
    bad = not text or len(text) > 255 or text[0] in "./" or "/." in text or _FORBIDDEN_IN_REF.search(text)
    if bad:
        raise Malformed(f"{where} is not a name that git allows")
    return text
