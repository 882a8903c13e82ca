"""Reading objects without a process each."""

import os
import signal

import pytest
import trio

from runnerd.git.objects import Entry, Objects, TooLarge, parse_tree
from runnerd.git.process import Git, GitError


@pytest.fixture
async def objects(origin):
    objects = Objects(Git(os.environ), origin.folder / ".git")
    yield objects
    await objects.close()


async def test_an_object_is_read_by_name(objects, origin):
    """A path at a commit gives id, kind, size and bytes."""
    origin.put("a.txt", "hello\n")
    sha = origin.commit()
    info, body = await objects.read(f"{sha}:a.txt", limit=100)
    assert (info.kind, info.size, body) == ("blob", 6, b"hello\n")


async def test_what_is_not_there_is_none(objects, origin):
    """A missing object is an answer, and the next question is answered too."""
    sha = origin.commit()
    assert await objects.info("0" * 40) is None
    assert await objects.info(f"{sha}:no such path with blanks") is None
    assert (await objects.info(sha)).kind == "commit"


async def test_a_large_object_is_refused_before_it_is_read(objects, origin):
    """The limit is checked against the size; the same git answers on."""
    blob = origin.blob(b"x" * 5000)
    with pytest.raises(TooLarge, match="has 5000 bytes"):
        await objects.read(blob, limit=4999)
    assert (await objects.read(blob, limit=5000))[1] == b"x" * 5000


async def test_many_tasks_get_their_own_answers(objects, origin):
    """Questions of several tasks at once do not mix."""
    blobs = {origin.blob(text): text for text in (b"%d\n" % n * (n + 1) for n in range(20))}
    got = {}

    async def ask(sha: str) -> None:
        got[sha] = (await objects.read(sha, limit=1000))[1]

    async with trio.open_nursery() as nursery:
        for sha in blobs:
            nursery.start_soon(ask, sha)
    assert got == blobs


async def test_a_git_that_died_is_replaced(objects, origin):
    """After its git was killed, one question may fail, the next is answered."""
    sha = origin.commit()
    assert await objects.info(sha)
    os.kill(objects._process.pid, signal.SIGKILL)
    await objects._process.wait()
    assert (await objects.info(sha)).sha == sha


async def test_a_cancelled_question_does_not_spoil_the_next(objects, origin):
    """An answer cut short is never taken for the answer to something else."""
    big, small = origin.blob(b"b" * (4 << 20)), origin.blob(b"s")
    for delay in (0.0, 0.0005, 0.001, 0.003):
        with trio.move_on_after(delay):
            await objects.read(big, limit=8 << 20)
        assert (await objects.read(small, limit=10))[1] == b"s"


async def test_a_name_with_a_line_break_is_refused(objects):
    """A second command cannot be smuggled into the conversation."""
    with pytest.raises(GitError, match="is not the name of an object"):
        await objects.info("HEAD\ncontents HEAD")


async def test_objects_fetched_later_are_seen(objects, origin):
    """The long-lived git finds packs that came after it started."""
    assert await objects.info("0" * 40) is None
    sha = origin.commit()
    origin.git("repack", "-a", "-d", "-q")
    assert await objects.info(sha)


async def test_a_tree_lists_its_lines(objects, origin):
    """Modes, raw names and ids as git stores them; a path that is no tree gives None."""
    origin.put("run.sh", "#!/bin/sh\n", mode=0o755)
    origin.put("sub/x", "x")
    sha = origin.commit()
    lines = await objects.tree(f"{sha}^{{tree}}", limit=1000)
    assert [(line.mode, line.name) for line in lines] == [("100755", b"run.sh"), ("40000", b"sub")]
    assert await objects.tree(f"{sha}:run.sh", limit=1000) is None


def test_a_tree_is_parsed_from_bytes():
    """Names may hold anything but NUL."""
    body = b"100644 a b\n\0" + bytes(range(20)) + b"40000 d\0" + bytes(20)
    assert parse_tree(body) == [
        Entry("100644", b"a b\n", bytes(range(20)).hex()),
        Entry("40000", b"d", "0" * 40),
    ]


async def test_idle_says_whether_a_git_is_kept(objects, origin):
    """Idle is a running git nobody waits for; after close there is none."""
    assert not objects.idle
    await objects.info("HEAD")
    assert objects.idle
    await objects.close()
    await objects.close()
    assert not objects.idle


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"100644 a",
        b"100644 a\0short",
        b"\xff a\0" + bytes(20),
        b"100644 \0" + bytes(20),
        b"999 a\0" + bytes(20),
    ],
)
def test_a_malformed_tree_is_a_sentence(body):
    """A remote can send any bytes as a tree; they cost one error, not the reader."""
    with pytest.raises(GitError, match="malformed"):
        parse_tree(body)


def test_a_mode_may_be_padded():
    """Old tools wrote a zero before a folder's mode."""
    assert parse_tree(b"040000 d\0" + bytes(20))[0].mode == "40000"
