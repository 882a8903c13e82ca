"""A delivery's payload to an `Event`: every body becomes one, is ignored for a reason, or is malformed.

Shapes are those of GitHub's webhook schemas, as far as they are read (`forge.shapes`); where each event
happens is the table in `forge.places`. Gitea's and Forgejo's words for the same things are taken too.
Nothing in a payload is trusted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from runnerd.model import Event

from . import shapes
from .places import PLACES, Spot
from .shapes import MAX_DEPTH, ZERO, Malformed, branch, ref, sender, sha

__all__ = [
    "BY_HAND",
    "MAX_DEPTH",
    "ZERO",
    "Ignored",
    "Malformed",
    "decode",
    "delivery_identity",
    "files_apart",
    "infer",
]

BY_HAND = "body-"
"""How the ids begin of deliveries that came without one."""
_NAME = re.compile(r"[!-~]{1,200}")

_IDENTITY = {
    "event": ("x-github-event", "x-forgejo-event", "x-gitea-event"),
    "delivery": ("x-github-delivery", "x-forgejo-delivery", "x-gitea-delivery"),
}
"""The headers that name an event and a delivery, by forge; Forgejo and Gitea send GitHub's as well."""

_OTHER_NAMES = {
    "pull_request_approved": "pull_request_review",
    "pull_request_rejected": "pull_request_review",
    "pull_request_comment": "pull_request_review",
    "wiki": "gollum",
}
"""Gitea's and Forgejo's names of events -> GitHub's."""
_OTHER_ACTIONS = {
    "synchronized": "synchronize",
    "label_updated": "labeled",
    "label_cleared": "unlabeled",
    "reviewed": "submitted",
}
"""Gitea's and Forgejo's actions -> GitHub's; no action of GitHub's has such a name."""


_OURS_ALONE = frozenset({"pull_request_target", "schedule"})
"""Events that no forge sends: the daemon makes them. Under such a name a signed body would gain rights."""


class Ignored(Struct, frozen=True):
    """A proper delivery that starts nothing, and why."""

    reason: str


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


_SHAPE = msgspec.json.Decoder(_Shape)


def delivery_identity(headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    """Return a delivery's id and event name; `headers` has lower-case names.

    A delivery without these headers, as a person sends it by hand, gets `body-` and the body's SHA-256 as
    its id and the event that its shape shows, or an empty name. Raises `Malformed` for a header that no
    forge sends.
    """
    found: dict[str, str | None] = {}
    for what, names in _IDENTITY.items():
        header = next((name for name in names if name in headers), names[0])
        found[what] = headers.get(header)
        if header in headers and not _NAME.fullmatch(headers[header]):
            raise Malformed(f"{header} is not 1 to 200 printable characters without spaces")
    if found["event"] in _OURS_ALONE:
        raise Malformed(f"no forge delivers {found['event']}: runnerd makes that event itself")
    return found["delivery"] or _identity(body), found["event"] or infer(body)


def infer(body: bytes) -> str:
    """Name the event that a body's shape shows, or return an empty string."""
    try:
        shape = _SHAPE.decode(body)
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
        shapes.payload_of(body)  # says what is wrong with it
        raise Malformed("the body is not a JSON object") from None

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
    `sha` and `report_sha` stay empty for the one who reads the repository, as they do for an event that
    happens at the tip of a ref. A pull request whose payload does not show both repositories counts as one
    from a fork. Raises `Malformed`, and nothing else, for a body that is not JSON, nests too deep, or has
    not the shape of its event.
    """
    payload = shapes.payload_of(body)
    exact = delivery is not None and (not delivery.startswith(BY_HAND) or delivery != _identity(body))
    name = name or infer(body)
    name = _OTHER_NAMES.get(name, name)
    reader = _READERS.get(name)
    if reader is None:
        shown = name if _NAME.fullmatch(name) else "an event without a known shape"
        return Ignored(f"{shown} starts no workflow: it is not among the events that can")
    action = payload.get("action")
    if isinstance(action, str) and action in _OTHER_ACTIONS:
        payload["action"] = _OTHER_ACTIONS[action]
    shapes.check_keys(name, payload)
    return reader(name, payload, delivery or _identity(body), exact)


def files_apart(event: Event) -> str | None:
    """The ref whose workflow files this event asks, where they are not those of its own commit."""
    place = PLACES.get(event.name)
    if place is None or place.files_from is place.runs_on or place.files_from is not Spot.DEFAULT:
        return None
    return f"refs/heads/{event.repository.default_branch}"


def _push(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    push = shapes.read(payload, shapes.Push)
    if exact and (push.after is UNSET or push.before is UNSET):
        raise Malformed("a push has the commits before and after it: one of them is missing")
    repository, pushed = shapes.repository(push.repository, exact), ref(push.ref, "ref")
    after = "" if push.after is UNSET else sha(push.after, "after")
    before = "" if push.before is UNSET else sha(push.before, "before")
    if push.deleted or ZERO.fullmatch(after):
        return Ignored(f"{pushed} was deleted: there is no commit to build")
    head = push.head_commit or shapes.Commit()
    if pushed.startswith("refs/tags/") and head.id:
        # `after` of an annotated tag is the tag object; what is built is the commit it points to.
        after = sha(head.id, "head_commit.id")
    return Event(
        delivery=delivery,
        name=name,
        repository=repository,
        sender=sender(push.sender),
        sha=after,
        ref=pushed,
        report_sha=after,
        before=before if before and not ZERO.fullmatch(before) else None,
        message=head.message or "",
        payload=payload,
    )


def _pull_request(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    """A pull request, a review of one or a comment on its diff."""
    event = shapes.read(payload, shapes.PullRequest)
    pull = shapes.Pull() if event.pull_request is UNSET else event.pull_request
    if exact and (pull.number is UNSET or pull.head is UNSET or pull.base is UNSET):
        raise Malformed("a pull request has a number, a head and a base: one of them is missing")
    own = name in ("pull_request", "pull_request_target")
    number = event.number if own else pull.number
    if number is UNSET:
        raise Malformed("a pull request has a number: it is missing")
    if pull.number is not UNSET and pull.number != number:
        raise Malformed(f"the pull request is number {pull.number} in one place and {number} in another")
    fork, head_ref, head_sha, base_ref, base_sha = True, "", "", "", ""
    if pull.head is not UNSET and pull.base is not UNSET:
        head, base = pull.head, pull.base
        fork = head.repo is None or base.repo is None or head.repo.id != base.repo.id
        # Gitea lets whoever may read push a pull request without a fork (AGit), and its head is then a ref
        # of the base repository: no branch that somebody could write to.
        fork = fork or (head.ref or "").startswith("refs/")
        head_ref, head_sha = branch(head.ref, "head.ref"), sha(head.sha, "head.sha")
        base_ref, base_sha = branch(base.ref, "base.ref"), sha(base.sha, "base.sha")
    repository = shapes.repository(event.repository, exact)
    commit, place = "", f"refs/pull/{number}/merge"
    if PLACES[name].runs_on is Spot.DEFAULT:
        place = f"refs/heads/{repository.default_branch}"
    elif own and event.action == "closed" and pull.merged and base_ref and pull.merge_commit_sha:
        # The merge ref of a merged pull request is gone; GitHub runs what was merged, on the base branch.
        commit, place = sha(pull.merge_commit_sha, "merge_commit_sha"), f"refs/heads/{base_ref}"
    return Event(
        delivery=delivery,
        name=name,
        action=event.action,
        repository=repository,
        sender=sender(event.sender),
        sha=commit,
        ref=place,
        report_sha=head_sha,
        head_ref=head_ref,
        base_ref=base_ref,
        base_sha=base_sha,
        number=number,
        fork=fork,
        payload=payload,
    )


def _workflow_dispatch(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    dispatch = shapes.read(payload, shapes.Dispatch)
    place = dispatch.ref if dispatch.ref.startswith("refs/") else f"refs/heads/{dispatch.ref}"
    return Event(
        delivery=delivery,
        name=name,
        repository=shapes.repository(dispatch.repository, exact),
        sender=sender(dispatch.sender),
        ref=ref(place, "ref"),
        inputs=dict(dispatch.inputs or {}),
        workflow=dispatch.workflow,
        payload=payload,
    )


def _create(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    change = shapes.read(payload, shapes.RefChange)
    kinds = {"branch": "refs/heads/", "tag": "refs/tags/"}
    if change.ref_type not in kinds:
        return Ignored("the repository was created: there is no branch or tag to run on")
    short = change.ref.removeprefix(kinds[change.ref_type])
    return Event(
        delivery=delivery,
        name=name,
        repository=shapes.repository(change.repository, exact),
        sender=sender(change.sender),
        ref=kinds[change.ref_type] + branch(short, "ref"),
        payload=payload,
    )


def _release(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    event = shapes.read(payload, shapes.Release)
    if event.release.draft and event.action in ("created", "edited", "deleted"):
        return Ignored(f"a draft of a release was {event.action}: GitHub starts nothing for drafts")
    return Event(
        delivery=delivery,
        name=name,
        action=event.action,
        repository=shapes.repository(event.repository, exact),
        sender=sender(event.sender),
        ref="refs/tags/" + branch(event.release.tag_name, "release.tag_name"),
        payload=payload,
    )


def _merge_group(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    event = shapes.read(payload, shapes.MergeGroup)
    group = event.merge_group
    head = sha(group.head_sha, "merge_group.head_sha")
    base = group.base_ref.removeprefix("refs/heads/")
    place = group.head_ref if group.head_ref.startswith("refs/") else f"refs/heads/{group.head_ref}"
    return Event(
        delivery=delivery,
        name=name,
        action=event.action,
        repository=shapes.repository(event.repository, exact),
        sender=sender(event.sender),
        sha=head,
        report_sha=head,
        ref=ref(place, "merge_group.head_ref"),
        base_ref=branch(base, "merge_group.base_ref"),
        base_sha=sha(group.base_sha, "merge_group.base_sha"),
        payload=payload,
    )


def _deployment(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    event = shapes.read(payload, shapes.Deployment)
    given, commit = event.deployment.ref, sha(event.deployment.sha, "deployment.sha")
    if given.startswith("refs/"):
        place = ref(given, "deployment.ref")
    else:
        # A branch or a tag, the payload does not say which; who reads the repository finds out.
        place = "" if shapes.is_sha(given) else f"refs/heads/{branch(given, 'deployment.ref')}"
    return Event(
        delivery=delivery,
        name=name,
        action=event.action,
        repository=shapes.repository(event.repository, exact),
        sender=sender(event.sender),
        sha=commit,
        report_sha=commit,
        ref=place,
        payload=payload,
    )


def _package(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    event = shapes.read(payload, shapes.Package)
    repository = shapes.repository(event.repository, exact)
    version = event.registry_package.package_version
    commit = (version.target_oid or "") if version else ""
    if not shapes.is_sha(commit):
        return Ignored("the package does not say which commit it was made from")
    place = f"refs/heads/{repository.default_branch}"
    if version and version.tag_name:
        place = "refs/tags/" + branch(version.tag_name, "package_version.tag_name")
    elif version and version.target_commitish and not shapes.is_sha(version.target_commitish):
        place = "refs/heads/" + branch(version.target_commitish, "package_version.target_commitish")
    return Event(
        delivery=delivery,
        name=name,
        action=event.action,
        repository=repository,
        sender=sender(event.sender),
        sha=commit,
        report_sha=commit,
        ref=place,
        payload=payload,
    )


def _on_default_branch(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    event = shapes.read(payload, shapes.Anything)
    repository = shapes.repository(event.repository, exact)
    return Event(
        delivery=delivery,
        name=name,
        action=event.action,
        repository=repository,
        sender=sender(event.sender),
        ref=f"refs/heads/{repository.default_branch}",
        payload=payload,
    )


def _ping(name: str, payload: dict[str, Any], delivery: str, exact: bool) -> Event | Ignored:
    shapes.read(payload, shapes.Ping)
    return Ignored("ping starts no workflow: it only says that the webhook is set up")


_READERS: dict[str, Callable[[str, dict[str, Any], str, bool], Event | Ignored]] = {
    **dict.fromkeys(
        (name for name, place in PLACES.items() if place.runs_on is Spot.DEFAULT), _on_default_branch
    ),
    **dict.fromkeys(
        ("pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment"),
        _pull_request,
    ),
    "push": _push,
    "workflow_dispatch": _workflow_dispatch,
    "create": _create,
    "release": _release,
    "merge_group": _merge_group,
    "deployment": _deployment,
    "deployment_status": _deployment,
    "registry_package": _package,
    "ping": _ping,
}


def _identity(body: bytes) -> str:
    return BY_HAND + hashlib.sha256(body).hexdigest()
