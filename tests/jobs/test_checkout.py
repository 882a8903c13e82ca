"""What a checkout asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.jobs.checkout import ACTION, CheckoutRefused, Request, read_inputs

GITHUB = {
    "repository": "octo/hello",
    "ref": "refs/pull/7/merge",
    "sha": "1" * 40,
    "server_url": "https://github.com",
}


def ask(**inputs: str) -> Request:
    return read_inputs(
        {name.replace("_", "-"): value for name, value in inputs.items()},
        github=GITHUB,
        workspace="/w/hello/hello",
    )


def test_without_inputs_it_is_the_events_commit():
    """At depth one, into the workspace, clean."""
    assert ask() == Request(
        ref="refs/pull/7/merge", sha="1" * 40, folder="/w/hello/hello", depth=1, clean=True
    )


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("A" * 40, ("", "a" * 40)),
        ("release", ("release", "")),
        ("refs/tags/v1", ("refs/tags/v1", "")),
        ("v1.0-ü", ("v1.0-ü", "")),
    ],
)
def test_a_ref_is_a_commit_or_a_name(ref, expected):
    """A name is looked up when the step runs."""
    asked = ask(ref=ref)
    assert (asked.ref, asked.sha) == expected


@pytest.mark.parametrize("ref", ["--upload-pack=id", "a b", "a\nb", "x" * 300])
def test_a_ref_that_is_none_is_refused(ref):
    """Options and blanks never get further."""
    with pytest.raises(CheckoutRefused, match="'ref'"):
        ask(ref=ref)


@pytest.mark.parametrize(
    ("path", "folder"),
    [(".", ""), ("sub", "/sub"), ("./a/../b/", "/b"), ("/w/hello/hello/x", "/x")],
)
def test_a_path_lies_in_the_workspace(path, folder):
    """Relative to it, or absolute inside it."""
    assert ask(path=path).folder == "/w/hello/hello" + folder


@given(st.text(max_size=40))
def test_no_path_leaves_the_workspace(path):
    """Whatever is written, the folder is inside or the step fails."""
    try:
        folder = ask(path=path).folder
    except CheckoutRefused:
        return
    assert (folder + "/").startswith("/w/hello/hello/")
    assert "/../" not in folder + "/"


@pytest.mark.parametrize("path", ["..", "/etc", "a/../../b", "/w/hello/hello2"])
def test_a_path_outside_is_refused(path):
    """As the action itself refuses it."""
    with pytest.raises(CheckoutRefused, match="not inside the workspace"):
        ask(path=path)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"submodules": "true"}, "submodules cannot be checked out yet"),
        ({"lfs": "true"}, "LFS files cannot be checked out yet"),
        ({"sparse_checkout": "src"}, "a sparse checkout cannot"),
        ({"repository": "other/repo"}, "only octo/hello itself"),
        ({"github_server_url": "https://ghe.example"}, "only https://github.com"),
        ({"fetch_depth": "all"}, "'all' is not a number"),
        ({"fetch_depth": "-1"}, "is not a number"),
        ({"fetch_tags": "true"}, "needs 'fetch-depth: 0'"),
        ({"fetch_dept": "0"}, "has no input 'fetch-dept'"),
    ],
)
def test_what_is_not_provided_is_refused(inputs, said):
    """With a sentence that says what to do, where there is something."""
    with pytest.raises(CheckoutRefused, match=said):
        ask(**inputs)


def test_what_does_not_matter_is_noted():
    """Logins are the host's own; switches that are off are no request."""
    asked = ask(
        token="x", ssh_key="y", submodules="false", lfs="false", persist_credentials="false", clean="false"
    )
    assert [note.split("'")[1] for note in asked.notes] == ["ssh-key", "token"]
    assert not asked.clean


def test_the_own_repository_may_be_named_and_tags_come_with_all():
    """Case does not matter in a repository's name."""
    assert ask(repository="Octo/Hello", fetch_tags="true", fetch_depth="0").depth == 0


@pytest.mark.parametrize(
    ("uses", "matches"),
    [
        ("actions/checkout@v4", True),
        ("Actions/Checkout@11bd71901bbe5b1630ceea73d27597364c9af683", True),
        ("actions/checkout@", False),
        ("actions/checkout/sub@v4", False),
        ("evil/actions/checkout@v4", False),
    ],
)
def test_any_version_of_the_action_is_meant(uses, matches):
    """And no other action."""
    assert (ACTION.fullmatch(uses) is not None) is matches
