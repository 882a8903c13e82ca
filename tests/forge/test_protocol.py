"""Behaviour of runnerd.forge.protocol."""

from __future__ import annotations

import subprocess
import sys

from runnerd.forge import client, protocol


def test_a_forge_that_is_not_there_says_when_to_come_back():
    """The time travels with the sentence."""
    error = protocol.ForgeUnavailable("the forge answered 502", 1000.0)
    assert (str(error), error.retry_at) == ("the forge answered 502", 1000.0)


def test_the_protocol_needs_no_http_client():
    """A daemon without a token reports to files, and holds no library for speaking to a forge."""
    code = "import sys, runnerd.actors.reporter; assert 'httpx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_github_speaks_the_protocol():
    """Every method of the protocol is the client's, under the same name."""
    methods = {name for name in vars(protocol.Forge) if not name.startswith("_")}
    assert methods == {"set_status", "upsert_comment", "credential"}
    assert all(callable(getattr(client.GitHub, name)) for name in methods)
