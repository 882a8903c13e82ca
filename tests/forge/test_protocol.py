"""Behaviour of runnerd.forge.protocol."""

from __future__ import annotations

import subprocess
import sys

from runnerd.forge import client, gitea, protocol


def test_a_forge_that_is_not_there_says_when_to_come_back():
    """The time travels with the sentence."""
    error = protocol.ForgeUnavailable("the forge answered 502", 1000.0)
    assert (str(error), error.retry_at, error.scope) == ("the forge answered 502", 1000.0, "forge")


def test_the_protocol_needs_no_http_client():
    """A daemon without a token reports to files, and holds no library for speaking to a forge."""
    code = "import sys, runnerd.actors.reporter; assert 'httpx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_github_speaks_the_protocol():
    """Every method of the protocol is the client's, under the same name."""
    methods = {name for name in vars(protocol.Forge) if not name.startswith("_")}
    assert methods == {"has_checks", "set_status", "set_check", "upsert_comment", "credential", "job_token",
                       "revoke", "ask"}  # fmt: skip
    for kind in (client.GitHub, gitea.Gitea):
        assert all(callable(getattr(kind, name)) for name in methods)


def test_a_token_does_not_show_itself():
    """Neither its text nor its repr gives a token away, whatever its length."""
    token = protocol.Token(value="ghs_1_" + "x" * 900, expires=10.0, permissions={"contents": "read"})
    assert "xxx" not in f"{token!r} {token!s} {[token]}"
    assert "contents" in repr(token)
