"""A remote Firecracker service as its callers met it, every trap included; its machines are folders here.

What a text says of `/home/runner`, `/opt/hostedtoolcache` and the kernel's boot id is made to mean the
machine's folder. Nothing a text does may touch the host's clock, randomness or disks: `date` only tells the
time, and `sync` and `perl` do nothing.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from runnerd.machines import sweep

EXECUTE = "/api/llm/execute"
KNOWN = {
    "/api/vms": {"vm_type", "vm_name", "name"},
    EXECUTE: {"agent_id", "language", "code", "vm_id", "timeout_seconds", "timeout_ms", "working_dir"},
}


class Vm:
    """One machine: a folder, and how far its start has come."""

    def __init__(self, folder: Path, polls: int, refusals: int, boot: str) -> None:
        self.folder = folder
        self.polls = polls
        self.refusals = refusals
        self.lags = 0
        self.goes_back_to: Path | None = None
        for name in ("home/runner", "opt/hostedtoolcache", "bin"):
            (folder / name).mkdir(parents=True)
        (folder / "boot_id").write_text(f"{boot}\n")
        for name, text in {
            "date": '#!/bin/sh\ncase "$*" in *-s*) exit 1;; esac\nexec /bin/date "$@"\n',
            "sudo": "#!/bin/sh\nexit 1\n",
            "sync": "#!/bin/sh\n",
            "perl": "#!/bin/sh\n",
        }.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)


class FakeService:
    """The service; its attributes are the traps, and what it remembers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.vms: dict[str, Vm] = {}
        self.names: dict[str, str] = {}
        self.token = "token"
        self.polls_until_running = 1
        """How often it says `Creating` before `running`."""
        self.refused_connections = 1
        """How often a machine that runs cannot be reached."""
        self.ends_in = "running"
        self.keeps_names = False
        self.name_key = "id"
        """How it calls a machine's name in what it says of one."""
        self.boot_id = ""
        """The boot id of every machine; empty gives each its own."""
        self.max_vms = 10
        self.faults: Counter[str] = Counter()
        """How often to do it wrong, by the beginning of `METHOD PATH`; `fault` says how."""
        self.fault = ""
        self.codes: list[str] = []
        self.timeouts: list[tuple[Any, Any]] = []
        self.snapshots: list[tuple[str, str]] = []
        self.rollbacks: list[tuple[str, str]] = []
        self.forgets_rollbacks = False
        """It says that it went back, and did nothing."""
        self.lost_snapshots = False
        """It knows no snapshot any more when it is to go back to one."""
        self.rollback_lags = 0
        """How many texts run in a machine after it is said to have gone back, and before it does."""
        self.removed: Counter[str] = Counter()
        """How often a machine that was there was removed."""
        self.lock = threading.Lock()

    def execute(self, order: dict[str, Any]) -> tuple[int, Any]:
        vm = self.vms.get(order["vm_id"])
        if vm is None:
            return 404, {"error": "VM not found"}
        if vm.refusals > 0:
            vm.refusals -= 1
            return 200, self.ran(255, "", "ssh: connect to host 172.26.0.2 port 22: Connection refused\n")
        if vm.goes_back_to is not None:
            vm.lags -= 1
            if vm.lags < 0:
                shelf, vm.goes_back_to = vm.goes_back_to, None
                self.roll_back(vm.folder, shelf)
        self.codes.append(order["code"])
        self.timeouts.append((order.get("timeout_seconds"), order.get("timeout_ms")))
        text = order["code"]
        for path in ("/home/runner", "/opt/hostedtoolcache"):
            text = text.replace(path, f"{vm.folder}{path}")
        text = text.replace("/proc/sys/kernel/random/boot_id", f"{vm.folder}/boot_id")
        text = re.sub(
            r"printf %s ([A-Za-z0-9+/=]+) \| base64 -d >(\S+/go)\b",
            lambda found: f"printf %s {_rewritten(found[1], vm.folder)} | base64 -d >{found[2]}",
            text,
        )
        environment = {"PATH": f"{vm.folder}/bin:/usr/local/bin:/usr/bin:/bin", "HOME": f"{vm.folder}/root"}
        done = subprocess.run(
            ["bash", "-c", text], cwd=vm.folder, env=environment, capture_output=True, timeout=60
        )
        return 200, self.ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode())

    @staticmethod
    def ran(code: int, out: str, err: str) -> dict[str, Any]:
        return {
            "execution_id": str(uuid.uuid4()),
            "vm_id": "x",
            "exit_code": code,
            "stdout": out,
            "stderr": err,
            "duration_ms": 1,
            "started_at": "",
            "completed_at": "",
            "error": None,
        }

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/health":
            return 200, {"service": "fcctl-web", "status": "healthy", "timestamp": ""}
        for known, fields in KNOWN.items():
            if path == known and set(body) - fields:
                return 422, {"error": f"unknown field {set(body) - fields}"}
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["api", "vms"]:
                return 200, {
                    "user": "u",
                    "total": len(self.vms),
                    "usage": {"at_capacity": len(self.vms) >= self.max_vms, "max_vms": self.max_vms},
                    "vms": [
                        {"id": name, "name": self.names[name], "status": "running", "config": "{}"}
                        for name in self.vms
                    ],
                }
            case "POST", ["api", "vms"]:
                if len(self.vms) >= self.max_vms:
                    return 409, {"error": "VM limit reached"}
                name = f"vm-{uuid.uuid4().hex[:8]}"
                self.names[name] = body["vm_name"] if self.keeps_names else name
                boot = self.boot_id or str(uuid.uuid4())
                self.vms[name] = Vm(
                    self.root / name, self.polls_until_running, self.refused_connections, boot
                )
                return 201, {
                    self.name_key: name,
                    "name": self.names[name],
                    "status": "Creating",
                    "vm_type": "focal",
                }
            case "GET", ["api", "vms", name] if name in self.vms:
                vm = self.vms[name]
                vm.polls -= 1
                return 200, {self.name_key: name, "status": "Creating" if vm.polls >= 0 else self.ends_in}
            case "DELETE", ["api", "vms", name] if name in self.vms:
                self.end(name)
                return 200, {"message": "deleted"}
            case "POST", ["api", "llm", "execute"]:
                return self.execute(body)
            case "POST", ["api", "vms", name, "snapshots"] if name in self.vms:
                self.snapshots.append((name, body["name"]))
                shelf = self.root / f"snap-{len(self.snapshots)}"
                subprocess.run(["cp", "-a", self.vms[name].folder, shelf], check=True)
                return 200, {"snapshot_id": shelf.name}
            case "POST", ["api", "vms", name, "rollback", snapshot] if name in self.vms:
                if self.lost_snapshots or not (self.root / snapshot).is_dir():
                    return 404, {"error": "snapshot not found"}
                self.rollbacks.append((name, snapshot))
                vm = self.vms[name]
                if self.rollback_lags:
                    vm.lags, vm.goes_back_to = self.rollback_lags, self.root / snapshot
                else:
                    self.roll_back(vm.folder, self.root / snapshot)
                return 200, {"message": "ok", "snapshot_id": snapshot, "vm_id": name}
        return 404, {"error": "not found"}

    def roll_back(self, folder: Path, shelf: Path) -> None:
        if self.forgets_rollbacks:
            return
        sweep.end_all(lambda: sweep.processes_of(folder), seconds=3.0)
        sweep.remove(folder)
        subprocess.run(["cp", "-a", shelf, folder], check=True)

    def end(self, name: str) -> None:
        vm = self.vms.pop(name)
        self.removed[name] += 1
        sweep.end_all(lambda: sweep.processes_of(vm.folder), seconds=3.0)
        sweep.remove(vm.folder)


def _rewritten(encoded: str, folder: Path) -> str:
    text = base64.b64decode(encoded).decode()
    for path in ("/home/runner", "/opt/hostedtoolcache"):
        text = text.replace(path, f"{folder}{path}")
    return base64.b64encode(text.encode()).decode()


class _Handler(BaseHTTPRequestHandler):
    service: FakeService
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_GET

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size) or b"{}") if size else {}
        service = self.service
        if self.path != "/health" and self.headers.get("Authorization") != f"Bearer {service.token}":
            return self._send(401, {"error": "invalid token"})
        with service.lock:
            key = f"{self.command} {self.path}"
            hit = next(
                (start for start, left in service.faults.items() if left and key.startswith(start)), None
            )
            if hit is not None:
                service.faults[hit] -= 1
        fault = service.fault if hit is not None else ""
        if fault == "refuse":
            return self._send(503, {"error": "busy"})
        if fault == "garbage":
            return self._send(500, None, b"<html>Internal Server Error</html>")
        status, answer = service.answer(self.command, self.path, body)
        if fault == "drop":  # it was done, and nobody hears of it
            self.close_connection = True
            self.connection.close()
            return None
        if fault == "no status":
            answer.pop("exit_code")
        if fault == "error":
            answer["error"] = "vsock closed"
        if fault == "nameless":
            answer = {"message": "ok"}
        return self._send(status, answer)

    def _send(self, status: int, answer: Any, raw: bytes = b"") -> None:
        data = raw or json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True


@contextmanager
def serving(root: Path) -> Iterator[tuple[FakeService, str]]:
    """A running service and its address; its machines are gone afterwards."""
    service = FakeService(root)
    handler = type("Handler", (_Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for name in tuple(service.vms):
            service.end(name)


def web_token(expires: float) -> str:
    """A token as the service gives it, that runs out at `expires`."""
    claims = {"user_id": "u", "exp": int(expires), "iat": int(time.time())}
    parts = ({"alg": "HS256"}, claims)
    coded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{'.'.join(coded)}.x"
