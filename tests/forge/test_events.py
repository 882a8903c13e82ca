"""Behaviour of runnerd.forge.events."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.forge.events import Ignored, Malformed, decode, delivery_identity, infer
from runnerd.model import Event

ZERO = "0" * 40
EXAMPLES = Path(__file__).parents[3] / "shared" / "data" / "webhooks" / "octokit"
needs_examples = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the reference payloads are not here")


def event(name: str | None, payload: Any, delivery: str | None = "d-1") -> Event:
    decoded = decode(name, delivery, json.dumps(payload).encode())
    assert isinstance(decoded, Event), decoded
    return decoded


def test_push_builds_its_new_tip(payloads):
    """A push names the commit, the ref, where the branch was before, and the head commit's message."""
    got = event("push", payloads.push())
    assert (got.name, got.delivery, got.sha, got.report_sha) == ("push", "d-1", "b" * 40, "b" * 40)
    assert (got.ref, got.before, got.message) == ("refs/heads/main", "a" * 40, "A change\n\nand why")
    assert (got.repository.owner, got.repository.name, got.sender.login) == ("octo-org", "hello", "octocat")
    assert got.payload["pusher" if "pusher" in got.payload else "ref"] == "refs/heads/main"


def test_push_of_a_new_branch_has_no_before(payloads):
    """The zero commit stands for nothing, so a new branch starts from None."""
    assert event("push", payloads.push(before=ZERO)).before is None


@pytest.mark.parametrize("change", [{"after": ZERO}, {"deleted": True, "after": ZERO, "head_commit": None}])
def test_a_deleted_ref_is_ignored_with_its_name(payloads, change):
    """A deletion has no commit, so nothing is built and the reason names the ref."""
    got = decode("push", "d", json.dumps(payloads.push(**change)).encode())
    assert isinstance(got, Ignored)
    assert "refs/heads/main was deleted" in got.reason


def test_push_of_an_annotated_tag_builds_the_commit_behind_it(payloads):
    """For a tag `after` may be a tag object; the commit is the head commit's id."""
    got = event("push", payloads.push(ref="refs/tags/v1", after="e" * 40))
    assert (got.ref, got.sha, got.report_sha) == ("refs/tags/v1", "b" * 40, "b" * 40)


def test_forced_push_without_commits_is_an_event(payloads):
    """A branch moved back has no new commits and still builds its tip."""
    assert event("push", payloads.push(forced=True, commits=[], head_commit=None)).sha == "b" * 40


def test_pull_request_runs_its_merge_ref_and_reports_on_its_head(payloads):
    """The commit of the merge ref is read later; statuses go to the head commit."""
    got = event("pull_request", payloads.pull_request())
    assert (got.ref, got.sha, got.report_sha) == ("refs/pull/7/merge", "", "c" * 40)
    assert (got.head_ref, got.base_ref, got.base_sha) == ("topic", "main", "d" * 40)
    assert (got.action, got.number, got.fork) == ("opened", 7, False)


@pytest.mark.parametrize(
    ("head", "base", "fork"), [(5, 5, False), (6, 5, True), (None, 5, True), (5, None, True)]
)
def test_fork_is_told_by_the_repositories_ids(payloads, head, base, fork):
    """Another repository, or one that is gone, is a fork; the `fork` flag of a repository means nothing."""
    sides = {"head": payloads.side("t", "c" * 40, head), "base": payloads.side("m", "d" * 40, base)}
    assert event("pull_request", payloads.pull_request(pull_request=sides)).fork is fork


def test_a_pull_request_pushed_without_a_fork_counts_as_one(payloads):
    """Gitea takes `refs/for/main` from whoever may read (AGit): its head is a ref of the base repository."""
    sides = {"head": payloads.side("refs/pull/7/head", "c" * 40, 5), "base": payloads.side("m", "d" * 40, 5)}
    assert event("pull_request", payloads.pull_request(pull_request=sides)).fork


def test_merged_pull_request_runs_on_its_base_branch(payloads):
    """When a pull request was merged its merge ref is gone: the merged commit runs on the base branch."""
    merged = payloads.pull_request(
        action="closed", pull_request={"merged": True, "merge_commit_sha": "e" * 40}
    )
    got = event("pull_request", merged)
    assert (got.ref, got.sha, got.report_sha) == ("refs/heads/main", "e" * 40, "c" * 40)


def test_workflow_dispatch_names_its_file_and_inputs(payloads):
    """A dispatch starts one file at a ref's tip, which is read later, with the inputs as sent."""
    got = event("workflow_dispatch", payloads.workflow_dispatch(ref="main"))
    assert (got.ref, got.sha, got.workflow) == ("refs/heads/main", "", ".github/workflows/build.yml")
    assert got.inputs == {"level": "debug", "dry": True, "count": 3}
    assert event("workflow_dispatch", payloads.workflow_dispatch(inputs=None)).inputs == {}


@pytest.mark.parametrize("name", ["installation", "star", "workflow_job", "no_such_event"])
def test_other_events_are_ignored_by_name(name):
    """An event without a meaning here is ignored with a reason that names it, whatever its body's keys."""
    got = decode(name, "d", b'{"action": "created"}')
    assert isinstance(got, Ignored)
    assert name in got.reason


def test_ping_is_ignored(payloads):
    """A ping is proper and starts nothing."""
    assert isinstance(decode("ping", "d", json.dumps(payloads.ping()).encode()), Ignored)


def test_an_events_body_has_that_events_shape(payloads):
    """A signed body under another event's name is malformed: the name is outside the signature."""
    bodies = {
        "push": payloads.push(),
        "pull_request": payloads.pull_request(),
        "workflow_dispatch": payloads.workflow_dispatch(),
        "ping": payloads.ping(),
    }
    for name in bodies:
        for other, payload in bodies.items():
            if name != other:
                with pytest.raises(Malformed):
                    decode(name, "d", json.dumps(payload).encode())


def test_event_and_id_are_found_in_the_body_of_a_manual_test(payloads):
    """Without headers the shape shows the event and the body's hash is the id."""
    for name in ("push", "pull_request", "workflow_dispatch", "ping"):
        body = json.dumps(getattr(payloads, name)()).encode()
        delivery, event_name = delivery_identity({}, body)
        assert (len(delivery), delivery[:5], event_name) == (69, "body-", name)
        assert delivery_identity({}, body + b" ")[0] != delivery
    assert delivery_identity({"x-github-event": "push", "x-github-delivery": "g-1"}, b"") == ("g-1", "push")


def test_a_manual_test_may_leave_out_what_a_forge_always_sends():
    """By hand a name and a ref are enough; what is unknown stays empty and a stranger's code is assumed."""
    payload = {"ref": "refs/heads/main", "repository": {"full_name": "o/r"}}
    push = event(None, payload, None)
    delivery, name = delivery_identity({}, json.dumps(payload).encode())
    assert event(name, payload, delivery) == push
    with pytest.raises(Malformed):
        event("push", payload, "a-guid")
    with pytest.raises(Malformed):
        event("push", payload, "body-" + "0" * 64)
    assert (push.name, push.sha, push.ref, push.delivery[:5]) == ("push", "", "refs/heads/main", "body-")
    pull = event(
        None,
        {
            "action": "opened",
            "number": 1,
            "pull_request": {"title": "Test", "html_url": "https://github.com/o/r/pull/1"},
            "repository": {"full_name": "o/r"},
        },
        None,
    )
    assert (pull.name, pull.number, pull.report_sha, pull.fork) == ("pull_request", 1, "", True)


@pytest.mark.parametrize("keys", ["review", "comment", "issue", "discussion"])
def test_a_body_of_another_event_is_not_taken_for_a_pull_request(payloads, keys):
    """Reviews, comments, issues and discussions also have an action; they start nothing."""
    assert infer(json.dumps(payloads.pull_request(**{keys: {}})).encode()) == ""
    assert infer(b'{"ref": "v1", "ref_type": "tag", "repository": {}}') == ""
    assert isinstance(decode(None, None, b'{"action": "created"}'), Ignored)


def test_ids_of_64_bits_survive(payloads):
    """The largest id a forge may give is kept as it is, and one more is malformed."""
    top = 2**63 - 1
    assert event("push", payloads.push(repository=payloads.repository(id=top))).repository.id == top
    for wrong in (2**63, -1, 10**30):
        with pytest.raises(Malformed):
            event("push", payloads.push(repository=payloads.repository(id=wrong)))


@pytest.mark.parametrize(
    "name",
    [
        "o",
        "/r",
        "o/",
        "o/r/x",
        "../x",
        "o/..",
        "o/.",
        "o r/x",
        "-o/r",
        "o/r\n",
        "o/r.git",
        "o\0/r",
        "ö/r",
        "o/" + "x" * 101,
    ],
)
def test_a_repository_name_that_is_no_name_is_malformed(payloads, name):
    """A name becomes part of a path and of an address, so that only a forge's spelling passes."""
    with pytest.raises(Malformed, match="full_name"):
        event("push", payloads.push(repository=payloads.repository(full_name=name)))


@pytest.mark.parametrize(
    "ref",
    ["", "main", "refs/heads/", "refs/notes/x", "refs/heads/a..b", "refs/heads/a b", "refs/heads/x\n",
     "refs/heads/.x", "refs/heads/a/.b", "refs/heads/a.lock", "refs/heads/a//b", "refs/heads/a@{1}",
     "refs/heads/" + "x" * 256, "refs/heads/a\x7f", "refs/heads/a:b", "refs/heads/a*", "refs/heads/a\\b"],
)  # fmt: skip
def test_a_ref_that_git_would_refuse_is_malformed(payloads, ref):
    """Only branch and tag names that git itself allows become refs."""
    with pytest.raises(Malformed):
        event("push", payloads.push(ref=ref))


@pytest.mark.parametrize(
    "ref", ['refs/heads/x";curl${IFS}evil', "refs/heads/-u", "refs/tags/@", "refs/heads/é"]
)
def test_a_strange_ref_that_git_allows_is_kept(payloads, ref):
    """A name that is only dangerous in a shell is data like any other."""
    assert event("push", payloads.push(ref=ref)).ref == ref


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b'"push"',
    b"{",
    b"{} {}",
    b"\xef\xbb\xbf{}",
    b'{"a": NaN}',
    b'{"a": "\\ud800"}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\xff"}',
    b'{"\xff": 1}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": 123456789012345678901234567890}',
    b'{"a": 1e999}',
    b'{"a": ' + b"[" * 100_000,
    b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"a":' * 500 + b"1" + b"}" * 500,
    b"payload=%7B%7D",
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:24]))
@pytest.mark.parametrize("name", ["push", "pull_request", "workflow_dispatch", "ping", "issues", None])
def test_a_hostile_body_is_malformed_for_every_event(name, body):
    """Bombs, broken text and what is not an object are told in one sentence that quotes no body."""
    with pytest.raises(Malformed) as caught:
        decode(name, "d", body)
    assert len(str(caught.value)) < 300


WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    2**70,
    "",
    "x" * 3000,
    "\x00",
    "a/../b",
    [],
    [[]],
    {},
    {"id": "x"},
]


def mutations(value: Any) -> Iterator[Any]:
    """Give the value with each of its parts taken away or replaced, one at a time."""
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            for part in mutations(value[key]):
                yield {**value, key: part}
    elif isinstance(value, list):
        for index in range(min(len(value), 2)):
            for part in mutations(value[index]):
                yield [*value[:index], part, *value[index + 1 :]]
    yield from WRONG


def survives(name: str, payload: Any) -> Event | Ignored | Malformed:
    """Decode, and check that what comes out can be stored again."""
    try:
        decoded = decode(name, "d", json.dumps(payload).encode())
    except Malformed as error:
        return error
    msgspec.json.encode(decoded)
    return decoded


@pytest.mark.parametrize("name", ["push", "pull_request", "workflow_dispatch", "ping"])
def test_every_field_may_be_wrong(payloads, name):
    """Whatever stands in whichever place, the answer is an event, a reason or one kind of error."""
    for payload in mutations(getattr(payloads, name)()):
        survives(name, payload)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *(("push", p) for p in ("ref", "after", "before", "deleted", "head_commit.id", "sender.login")),
        *(("push", f"repository{p}") for p in ("", ".id", ".full_name", ".private", ".default_branch")),
        *(("pull_request", p) for p in ("action", "number", "repository", "pull_request", "sender.id")),
        *(
            ("pull_request", f"pull_request.{p}")
            for p in ("number", "head", "head.sha", "head.repo.id", "base.ref")
        ),
        *(("workflow_dispatch", p) for p in ("ref", "workflow", "inputs", "repository.id", "inputs.level")),
    ],
)
def test_a_wrong_type_in_a_field_that_is_read_is_malformed(payloads, name, path):
    """A list where a value belongs is never read as something else."""
    payload = copy.deepcopy(getattr(payloads, name)())
    *outer, last = path.split(".")
    place = payload
    for key in outer:
        place = place[key]
    place[last] = [["no"]]
    assert isinstance(survives(name, payload), Malformed)


@needs_examples
@pytest.mark.parametrize(
    "path",
    sorted(EXAMPLES.glob("[!_]*/*.json")) if EXAMPLES.is_dir() else [],
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_every_official_example_is_an_event_or_ignored(path):
    """GitHub's own example payloads decode under their name, and under what their shape shows."""
    name, body = path.parent.name, path.read_bytes()
    decoded = decode(name, "d", body)
    if isinstance(decoded, Event):
        assert decoded.name == name
        assert infer(body) == (name if name in ("push", "pull_request", "workflow_dispatch") else "")
    else:
        assert decoded.reason
        assert infer(body) in ("", name)


@needs_examples
def test_the_official_pushes_are_three_tag_or_branch_deletions_and_commits():
    """Of GitHub's push examples those that delete a ref are ignored and the others build."""
    for path in sorted((EXAMPLES / "push").glob("*.json")):
        payload = json.loads(path.read_bytes())
        assert isinstance(decode("push", "d", path.read_bytes()), Ignored if payload["deleted"] else Event)


@needs_examples
@pytest.mark.parametrize(
    "name", ["push/payload", "pull_request/synchronize.payload", "workflow_dispatch/payload"]
)
def test_no_mutation_of_an_official_example_breaks_decoding(name):
    """Each part of a real payload may be wrong or missing."""
    payload = json.loads((EXAMPLES / f"{name}.json").read_bytes())
    for number, mutation in enumerate(mutations(payload)):
        if number % 7 == 0:
            survives(name.partition("/")[0], mutation)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["ref", "id", "head", "x"]), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=150)
@given(
    st.sampled_from(["push", "pull_request", "workflow_dispatch", "ping", None]), st.binary() | json_values
)
def test_any_bytes_and_any_json_are_survived(name, value):
    """Random bytes and random JSON give an event, a reason or `Malformed`."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        assert isinstance(decode(name, None, body), Event | Ignored)
    except Malformed:
        pass


@pytest.mark.parametrize("value", ["", "a b", "x" * 201, "a\n", "é"])
def test_identity_headers_no_forge_sends_are_malformed(value):
    """Only short printable names become ids and event names."""
    with pytest.raises(Malformed):
        delivery_identity({"x-github-delivery": value, "x-github-event": "push"}, b"{}")
    with pytest.raises(Malformed):
        delivery_identity({"x-github-delivery": "d", "x-github-event": value}, b"{}")
