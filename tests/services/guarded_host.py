"""A host of the tests' own, as a process: the egress proxy under the default policy, on a loopback port.

`python guarded_host.py NAME=ADDRESS…` prints its port; what a job's log would have it writes as errors.
"""

from __future__ import annotations

import sys
from functools import partial
from ipaddress import ip_address

import trio

from runnerd.services.egress import Egress
from runnerd.services.egress_policy import Policy


async def main(names: dict[str, str]) -> None:
    """Serve until the standard input ends."""

    async def resolve(host: str):
        return [ip_address(names[host])]

    async def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    async with Egress(resolve=resolve).open(Policy(), say) as proxy, trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1"))
        print(listeners[0].socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, dict(pair.split("=", 1) for pair in sys.argv[1:]))
