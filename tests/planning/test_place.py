"""Behaviour of runnerd.planning.place, with real repositories."""

from __future__ import annotations

import pytest

from runnerd.planning.place import Absent, Conflict, NotMerged, Passed, locate

OTHER = "refs/heads/other"


async def test_an_event_at_a_ref_happens_at_its_tip(remote, mirrors):
    """An event of the default branch, a release and a new branch have the commit their ref names."""
    base = remote.commit()
    remote.git("tag", "-a", "-m", "one", "v1")
    tip = remote.branch("other", a="1")
    for name, ref, sha in (
        ("issues", "refs/heads/main", base),
        ("release", "refs/tags/v1", base),
        ("create", OTHER, tip),
    ):
        got = await locate(remote.event(name, ref=ref), mirrors, merges=True)
        assert (got.sha, got.report_sha, got.ref) == (sha, sha, ref)


async def test_a_ref_that_is_gone_is_absent(remote, mirrors):
    """A tag that was deleted, or is not replicated yet, is told apart from a remote that does not answer."""
    remote.commit()
    with pytest.raises(Absent, match="octo/hello has no refs/tags/v9"):
        await locate(remote.event("release", ref="refs/tags/v9"), mirrors, merges=True)


@pytest.mark.parametrize(
    ("name", "given", "ref"),
    [("main", "refs/heads/main", "refs/heads/main"), ("v1", "refs/heads/v1", "refs/tags/v1"), ("-", "", "")],
)
async def test_a_deployments_ref_is_a_branch_or_a_tag_or_none(remote, mirrors, name, given, ref):
    """The payload has the short name alone; the repository says what it is the name of."""
    sha = remote.commit()
    remote.git("tag", "v1")
    event = remote.event("deployment", sha=sha, report_sha=sha, ref=given)
    got = await locate(event, mirrors, merges=True)
    assert (got.sha, got.ref) == (sha, ref)


async def test_a_deployment_has_no_ref_that_its_commit_is_not_on(remote, mirrors):
    """Else any commit could be called main, and have what only main may have; older ones of it can."""
    older = remote.commit()
    remote.commit("main goes on")
    elsewhere = remote.branch("topic", a="1")
    remote.git("tag", "v1", older)
    for sha, given, ref in (
        (older, "refs/heads/main", "refs/heads/main"),
        (elsewhere, "refs/heads/main", ""),
        (elsewhere, "refs/heads/v1", ""),
    ):
        event = remote.event("deployment", sha=sha, report_sha=sha, ref=given)
        assert (await locate(event, mirrors, merges=True)).ref == ref


async def test_a_pull_request_builds_the_merge_commit_of_its_head_and_base(remote, mirrors):
    """The merge commit with these two parents is built, and the head's message and commit are reported on."""
    base = remote.commit()
    head = remote.branch("topic", a="1")
    remote.offer(head)
    merge = remote.merge(base, head)
    got = await locate(remote.pull(head, base), mirrors, merges=True)
    assert (got.sha, got.report_sha, got.message) == (merge, head, "change topic\n")


async def test_a_merge_with_a_newer_or_older_base_is_taken(remote, mirrors):
    """The base branch moves on its own; what matters is that it is that branch."""
    old = remote.commit()
    head = remote.branch("topic", a="1")
    new = remote.commit("main goes on")
    remote.offer(head)
    for payload, parent in ((old, new), (new, old)):
        merge = remote.merge(parent, head)
        assert (await locate(remote.pull(head, payload), mirrors, merges=True)).sha == merge


async def test_a_merge_into_another_branch_is_not_taken(remote, mirrors):
    """A pull request whose base was changed waits for the merge with the new base."""
    start = remote.commit()
    base = remote.branch("release", start, b="1")
    head = remote.branch("topic", start, a="1")
    other = remote.branch("other", start, c="1")
    remote.offer(head)
    remote.merge(other, head)
    with pytest.raises(NotMerged):
        await locate(remote.pull(head, base, base_ref="release"), mirrors, merges=True)


async def test_a_superseded_push_is_over(remote, mirrors):
    """When the head is another by now nothing is built of the old one; the new one comes by itself."""
    base = remote.commit()
    old = remote.branch("topic", a="1")
    new = remote.branch("topic", a="2")
    remote.offer(new)
    remote.merge(base, new)
    with pytest.raises(Passed, match=f"{old} was superseded"):
        await locate(remote.pull(old, base), mirrors, merges=True)


async def test_a_label_is_about_the_pull_request_as_it_is(remote, mirrors):
    """Nobody sends the label again for the new head, so that it counts for that."""
    base = remote.commit()
    old = remote.branch("topic", a="1")
    new = remote.branch("topic", a="2")
    remote.offer(new)
    merge = remote.merge(base, new)
    got = await locate(remote.pull(old, base, action="labeled"), mirrors, merges=True)
    assert (got.sha, got.report_sha) == (merge, new)


@pytest.mark.parametrize("merged_before", [False, True])
async def test_a_conflict_is_told_with_its_files(remote, mirrors, merged_before):
    """Whether there is no merge commit or one from before, the sentence names what conflicts."""
    remote.write(a="0", b="0")
    start = remote.commit()
    first = remote.branch("topic", start, c="1")
    remote.merge(start, first)
    if not merged_before:
        remote.git("update-ref", "-d", "refs/pull/7/merge")
    head = remote.branch("topic", start, a="theirs")
    remote.write(a="ours")
    base = remote.commit()
    remote.offer(head)
    with pytest.raises(Conflict, match="conflicts with its base branch main") as caught:
        await locate(remote.pull(head, base), mirrors, merges=True)
    assert str(caught.value).splitlines()[1:] == ["a"]
    assert (caught.value.event.sha, caught.value.event.report_sha) == (head, head)


async def test_a_merge_that_is_not_made_yet_is_waited_for_and_asked_for(remote, mirrors):
    """GitHub makes it in the background; to ask about the pull request makes it look."""
    base = remote.commit()
    head = remote.branch("topic", a="1")
    remote.offer(head)
    asked = []

    async def nudge(repository, number):
        asked.append((repository, number))

    with pytest.raises(NotMerged) as caught:
        await locate(remote.pull(head, base), mirrors, merges=True, nudge=nudge)
    assert caught.value.event.sha == head
    assert asked == [("octo/hello", 7)]
    merge = remote.merge(base, head)
    assert (await locate(remote.pull(head, base), mirrors, merges=True)).sha == merge


async def test_where_the_remote_makes_no_merges_the_head_is_built(remote, mirrors):
    """Gitea and a plain repository have no merge commits."""
    base = remote.commit()
    head = remote.branch("topic", a="1")
    remote.offer(head)
    assert (await locate(remote.pull(head, base), mirrors, merges=False)).sha == head


async def test_a_closed_pull_request_is_not_waited_for(remote, mirrors):
    """Nobody merges it any more; a workflow about the closing runs at the head."""
    base = remote.commit()
    head = remote.branch("topic", a="1")
    remote.offer(head)
    got = await locate(remote.pull(head, base, action="closed"), mirrors, merges=True)
    assert got.sha == head


async def test_a_head_nobody_has_is_absent(remote, mirrors):
    """A commit the remote does not give is no fault of the network."""
    base = remote.commit()
    with pytest.raises(Absent):
        await locate(remote.pull("f" * 40, base), mirrors, merges=True)
