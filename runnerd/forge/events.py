"""A delivery's payload to an `Event`: every body becomes one, is ignored for a reason, or is malformed.

Shapes are those of GitHub's webhook schemas, as far as they are read here; the rule for each event's
commit and ref is GitHub's table of events that trigger workflows. Nothing in a payload is trusted: names
that become paths, refs or addresses are checked here once, so that no other room has to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from runnerd.model import Actor, Event, Repository

MAX_DEPTH = 64
"""How deep a payload may nest; GitHub's own stay under ten."""

ZERO = re.compile(r"0{40}(0{24})?")
"""The commit that is none: a ref's before at its creation, its after at its deletion."""

_BY_HAND = "body-"
_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_FULL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_.-]{1,100}")
_NAME = re.compile(r"[!-~]{1,200}")
_FORBIDDEN_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/$|\.$|\.lock(/|$)")

Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[int, Meta(ge=1, le=2**31 - 1)]
ShapeT = TypeVar("ShapeT")


class Malformed(Exception):
    """The delivery is not what it says it is; the sentence says where."""


class Ignored(Struct, frozen=True):
    """A proper delivery that starts nothing, and why."""

    reason: str


class _Account(Struct):
    id: Id = 0
    login: Annotated[str, Meta(max_length=200)] = ""


class _Repository(Struct):
    full_name: str
    id: Id | UnsetType = UNSET
    default_branch: Annotated[str, Meta(max_length=255)] | None = None
    private: bool = False
    html_url: Annotated[str, Meta(max_length=2000)] | None = None


class _Commit(Struct):
    id: str = ""
    message: str | None = None


class _Push(Struct):
    repository: _Repository
    ref: str
    after: str | UnsetType = UNSET
    before: str | UnsetType = UNSET
    deleted: bool = False
    head_commit: _Commit | None = None
    sender: _Account | None = None


class _HeadRepository(Struct):
    id: Id


class _Side(Struct):
    ref: str
    sha: str
    repo: _HeadRepository | None


class _Pull(Struct):
    number: Number | UnsetType = UNSET
    head: _Side | UnsetType = UNSET
    base: _Side | UnsetType = UNSET
    merged: bool | None = None
    merge_commit_sha: str | None = None


class _PullRequest(Struct):
    action: Annotated[str, Meta(max_length=100)]
    number: Number
    repository: _Repository
    pull_request: _Pull | UnsetType = UNSET
    sender: _Account | None = None


class _Dispatch(Struct):
    ref: str
    repository: _Repository
    workflow: Annotated[str, Meta(min_length=1, max_length=1000)]
    inputs: dict[str, str | int | float | bool | None] | None
    sender: _Account | None = None


class _Ping(Struct):
    hook_id: Id
    zen: str = ""


class _Shape(Struct):
    """Which keys a body has, without reading what is behind them."""

    action: msgspec.Raw | UnsetType = UNSET
    number: msgspec.Raw | UnsetType = UNSET
    pull_request: msgspec.Raw | UnsetType = UNSET
    review: msgspec.Raw | UnsetType = UNSET
    comment: msgspec.Raw | UnsetType = UNSET
    issue: msgspec.Raw | UnsetType = UNSET
    discussion: msgspec.Raw | UnsetType = UNSET
    ref: msgspec.Raw | UnsetType = UNSET
    ref_type: msgspec.Raw | UnsetType = UNSET
    workflow: msgspec.Raw | UnsetType = UNSET
    inputs: msgspec.Raw | UnsetType = UNSET
    hook_id: msgspec.Raw | UnsetType = UNSET
    zen: msgspec.Raw | UnsetType = UNSET


def delivery_identity(headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    """Return a delivery's id and event name; `headers` has lower-case names.

    A delivery without these headers, as a person sends it by hand, gets `body-` and the body's SHA-256 as
    its id and the event that its shape shows, or an empty name. Raises `Malformed` for a header that no
    forge sends.
    """
    name, delivery = headers.get("x-github-event"), headers.get("x-github-delivery")
    for header, value in (("X-GitHub-Event", name), ("X-GitHub-Delivery", delivery)):
        if value is not None and not _NAME.fullmatch(value):
            raise Malformed(f"{header} is not 1 to 200 printable characters without spaces")
    return delivery or _identity(body), name or infer(body)


def infer(body: bytes) -> str:
    """Name the event that a body's shape shows, or return an empty string."""
    shape = _read(body, _SHAPE)

    def has(*keys: str) -> bool:
        return all(getattr(shape, key) is not UNSET for key in keys)

    if has("review") or has("comment") or has("issue") or has("discussion") or has("ref_type"):
        return ""
    if has("action", "number"):
        return "pull_request"
    if has("ref", "workflow", "inputs"):
        return "workflow_dispatch"
    if has("ref") and not has("action"):
        return "push"
    return "ping" if has("zen") and has("hook_id") else ""


def decode(name: str | None, delivery: str | None, body: bytes) -> Event | Ignored:
    """Return what a delivery's body says happened, or why it starts nothing.

    Without a name the event is inferred from the shape. A delivery without an id of its own (None, or the
    one that `delivery_identity` gave it) was made by hand and may lack what a person leaves out: then
    `sha` and `report_sha` stay empty for the one who reads the repository. A pull request whose payload
    does not show both repositories counts as one from a fork. Raises `Malformed`, and nothing else, for a
    body that is not JSON, nests too deep, or has not the shape of its event.
    """
    payload = _payload(body)
    exact = delivery is not None and (not delivery.startswith(_BY_HAND) or delivery != _identity(body))
    name = name or infer(body)
    reader = _READERS.get(name)
    if reader is None:
        shown = name if _NAME.fullmatch(name) else "an event without a known shape"
        return Ignored(f"{shown} starts no workflow here yet")
    return reader(body, payload, delivery or _identity(body), exact)


def _push(body: bytes, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    push = _read(body, _PUSH)
    if exact and (push.after is UNSET or push.before is UNSET):
        raise Malformed("a push has the commits before and after it: one of them is missing")
    repository, ref = _repository(push.repository, exact), _ref(push.ref, "ref")
    after = "" if push.after is UNSET else _sha(push.after, "after")
    before = "" if push.before is UNSET else _sha(push.before, "before")
    if push.deleted or ZERO.fullmatch(after):
        return Ignored(f"{ref} was deleted: there is no commit to build")
    head = push.head_commit or _Commit()
    if ref.startswith("refs/tags/") and head.id:
        # `after` of an annotated tag is the tag object; what is built is the commit it points to.
        after = _sha(head.id, "head_commit.id")
    return Event(
        delivery=delivery,
        name="push",
        repository=repository,
        sender=_sender(push.sender),
        sha=after,
        ref=ref,
        report_sha=after,
        before=before if before and not ZERO.fullmatch(before) else None,
        message=head.message or "",
        payload=payload,
    )


def _pull_request(body: bytes, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    event = _read(body, _PULL_REQUEST)
    pull = _Pull() if event.pull_request is UNSET else event.pull_request
    if exact and (pull.number is UNSET or pull.head is UNSET or pull.base is UNSET):
        raise Malformed("a pull request has a number, a head and a base: one of them is missing")
    if pull.number is not UNSET and pull.number != event.number:
        raise Malformed(
            f"the pull request is number {pull.number} in one place and {event.number} in another"
        )
    fork, head_ref, head_sha, base_ref, base_sha = True, "", "", "", ""
    if pull.head is not UNSET and pull.base is not UNSET:
        head, base = pull.head, pull.base
        fork = head.repo is None or base.repo is None or head.repo.id != base.repo.id
        head_ref, head_sha = _branch(head.ref, "head.ref"), _sha(head.sha, "head.sha")
        base_ref, base_sha = _branch(base.ref, "base.ref"), _sha(base.sha, "base.sha")
    sha, ref = "", f"refs/pull/{event.number}/merge"
    if event.action == "closed" and pull.merged and base_ref and pull.merge_commit_sha:
        # The merge ref of a merged pull request is gone; GitHub runs what was merged, on the base branch.
        sha, ref = _sha(pull.merge_commit_sha, "merge_commit_sha"), f"refs/heads/{base_ref}"
    return Event(
        delivery=delivery,
        name="pull_request",
        action=event.action,
        repository=_repository(event.repository, exact),
        sender=_sender(event.sender),
        sha=sha,
        ref=ref,
        report_sha=head_sha,
        head_ref=head_ref,
        base_ref=base_ref,
        base_sha=base_sha,
        number=event.number,
        fork=fork,
        payload=payload,
    )


def _workflow_dispatch(body: bytes, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    dispatch = _read(body, _DISPATCH)
    ref = dispatch.ref if dispatch.ref.startswith("refs/") else f"refs/heads/{dispatch.ref}"
    return Event(
        delivery=delivery,
        name="workflow_dispatch",
        repository=_repository(dispatch.repository, exact),
        sender=_sender(dispatch.sender),
        ref=_ref(ref, "ref"),
        inputs=dict(dispatch.inputs or {}),
        workflow=dispatch.workflow,
        payload=payload,
    )


def _ping(body: bytes, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    _read(body, _PING)
    return Ignored("ping starts no workflow: it only says that the webhook is set up")


_READERS: dict[str, Callable[[bytes, dict[str, Any], str, bool], Event | Ignored]] = {
    "push": _push,
    "pull_request": _pull_request,
    "workflow_dispatch": _workflow_dispatch,
    "ping": _ping,
}

_SHAPE = msgspec.json.Decoder(_Shape)
_PUSH = msgspec.json.Decoder(_Push)
_PULL_REQUEST = msgspec.json.Decoder(_PullRequest)
_DISPATCH = msgspec.json.Decoder(_Dispatch)
_PING = msgspec.json.Decoder(_Ping)
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def _read(body: bytes, decoder: msgspec.json.Decoder[ShapeT]) -> ShapeT:
    """Decode a body, with every way it can be wrong as one kind of error."""
    try:
        return decoder.decode(body)
    except RecursionError:
        raise Malformed("the body nests too deep") from None
    except (msgspec.MsgspecError, UnicodeError, ValueError) as error:
        # The body's own bytes are never quoted: msgspec names the place and the types alone.
        detail = "it is not UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise Malformed(f"the body is not as this event's should be: {detail}") from None


def _payload(body: bytes) -> dict[str, Any]:
    """Decode the whole body, refusing what could not be stored or encoded again."""
    payload = _read(body, _OBJECT)
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


def _identity(body: bytes) -> str:
    return _BY_HAND + hashlib.sha256(body).hexdigest()


def _repository(given: _Repository, exact: bool) -> Repository:
    """Check a repository's name: it becomes part of paths and of the remote's address."""
    if exact and given.id is UNSET:
        raise Malformed("the repository has no id")
    if not _FULL_NAME.fullmatch(given.full_name) or given.full_name.endswith(("/.", "/..", ".git")):
        raise Malformed("repository.full_name is not OWNER/NAME as a forge writes it")
    return Repository(
        id=0 if given.id is UNSET else given.id,
        full_name=given.full_name,
        default_branch=_branch(given.default_branch or "main", "repository.default_branch"),
        private=given.private,
        html_url=given.html_url or "",
    )


def _sender(given: _Account | None) -> Actor:
    return Actor(id=given.id, login=given.login) if given else Actor(id=0, login="")


def _sha(text: str, where: str) -> str:
    if not _SHA.fullmatch(text):
        raise Malformed(f"{where} is not a full commit id")
    return text


def _ref(text: str, where: str) -> str:
    """Accept a full branch or tag name by git's own rules (git-check-ref-format)."""
    if not text.startswith(("refs/heads/", "refs/tags/")):
        raise Malformed(f"{where} is neither a branch nor a tag")
    _branch(text.split("/", 2)[2], where)
    return text


def _branch(text: str, where: str) -> str:
    bad = not text or len(text) > 255 or text[0] in "./" or "/." in text or _FORBIDDEN_IN_REF.search(text)
    if bad:
        raise Malformed(f"{where} is not a name that git allows")
    return text
