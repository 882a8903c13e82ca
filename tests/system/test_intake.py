"""The public door under abuse while a real run is in flight."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from .conftest import PROCESSES, Daemon, wait_for

pytestmark = pytest.mark.system


def test_ready_means_that_the_webhook_answers(make_daemon: Callable[..., Daemon]) -> None:
    """The first time `/readyz` says yes, a webhook can be posted."""
    daemon = make_daemon(PROCESSES).start()
    for _ in range(3):
        wait_for(lambda: daemon.health("/readyz")[0] == 200, 60, "ready", pause=0.0)
        socket.create_connection(("127.0.0.1", daemon.port), 10).close()
        daemon.kill()
        daemon.start()
