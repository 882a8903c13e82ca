"""curl, git, pip, npm and apt behind the proxy's default policy, in network namespaces of the tests' own.

One namespace is the host, with the proxy; another is the internet, with one site on a public address.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runnerd.services import egress
from tests.services import guarded_host, origin

HOST, SITE = "11.22.33.1", "11.22.33.2"
"""Public addresses, which lead nowhere but to each other here."""


class Net:
    """The two namespaces, with the site and the proxy."""

    def __init__(self, folder: Path, inside: Callable[..., list[str]]) -> None:
        self.folder = folder
        self._inside = inside

    def use(self, port: int) -> None:
        """Let `run` go through this proxy."""
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            **egress.variables(port),
            "NODE_USE_ENV_PROXY": "",
        }

    def run(self, *argv: object) -> subprocess.CompletedProcess[str]:
        """Run a client on the host; its output and errors together."""
        return subprocess.run(
            self._inside(*argv),
            env=self._environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """The namespaces; they and all that runs in them are gone afterwards."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    folder = tmp_path_factory.mktemp("net")
    origin.furnish(folder / "origin")
    names = [f"rd{os.getpid()}{end}" for end in "hs"]

    def ip(*argv: str, namespace: str | None = None) -> None:
        where = ["-n", namespace] if namespace else []
        subprocess.run(["ip", *where, *argv], check=True, capture_output=True)

    def inside(*argv: object, namespace: str = names[0]) -> list[str]:
        return ["ip", "netns", "exec", namespace, *map(str, argv)]

    log = (folder / "log").open("w")
    running: list[subprocess.Popen[str]] = []

    def start(*argv: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        running.append(subprocess.Popen(argv, text=True, **pipes))
        return running[-1]

    try:
        try:
            for name in names:
                ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made here: {error.stderr!r}")
        ip("link", "add", "way", "type", "veth", "peer", "name", "way", "netns", names[1], namespace=names[0])
        for name, address in zip(names, (HOST, SITE), strict=True):
            ip("address", "add", f"{address}/24", "dev", "way", namespace=name)
            for device in ("lo", "way"):
                ip("link", "set", device, "up", namespace=name)
        site = start(
            *inside(sys.executable, origin.__file__, folder / "origin", SITE, 80, 443, namespace=names[1])
        )
        places = [f"{origin.NAME}={SITE}", f"host.example={HOST}", "inner.example=10.9.9.9"]
        proxy = start(*inside(sys.executable, guarded_host.__file__, *places))
        assert site.stdout.readline()
        net = Net(folder, inside)
        net.use(int(proxy.stdout.readline()))
        yield net
    finally:
        for process in running:
            process.kill()
            process.communicate()
        log.close()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def test_curl(net: Net) -> None:
    """Plain and encrypted, with a name that only the proxy can resolve."""
    assert net.run("curl", "-sS", "http://here.example/hello.txt").stdout == "hello from the tests\n"
    certificate = net.folder / "origin/cert.pem"
    done = net.run("curl", "-sS", "--cacert", certificate, "https://here.example/hello.txt")
    assert done.stdout == "hello from the tests\n"


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("169.254.169.254", "169.254.169.254 is a metadata service"),
        ("host.example", f"{HOST} is an address of the host itself"),
    ],
)
def test_refusals_are_seen_and_logged(net: Net, host: str, rule: str) -> None:
    """The host's own public address and its metadata service are refused; curl and the log show the rule."""
    done = net.run("curl", "-sS", "-i", f"http://{host}/")
    assert done.stdout.startswith("HTTP/1.1 403 runnerd: the network policy refuses")
    assert rule in done.stdout
    line = f"##[warning]The network policy refused a connection to {host}:80: {rule}."
    assert line in (net.folder / "log").read_text().splitlines()


def test_a_refused_tunnel_fails_the_client(net: Net) -> None:
    """A tunnel to a private address fails with the rule in the proxy's status line."""
    done = net.run("curl", "-sv", "https://inner.example/")
    assert done.returncode == 56
    assert "403 runnerd: the network policy refuses inner.example:443: 10.9.9.9 is a private" in done.stdout


def test_git(net: Net) -> None:
    """A clone by either scheme."""
    for scheme, folder in (("http", "plain"), ("https", "secure")):
        trust = f"http.sslCAInfo={net.folder}/origin/cert.pem"
        done = net.run("git", "-c", trust, "clone", "-q", f"{scheme}://here.example/repo.git", folder)
        assert done.returncode == 0, done.stdout
        assert (net.folder / folder / "file").read_text() == "from git\n"


def test_pip(net: Net) -> None:
    """A wheel from an index."""
    index = ("--index-url", "http://here.example/simple/", "--trusted-host", "here.example")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    done = net.run(*pip, "download", "-q", "--no-deps", *index, "demo")
    assert done.returncode == 0, done.stdout
    assert (net.folder / "demo-1.0-py3-none-any.whl").exists()


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm(net: Net) -> None:
    """A package from a registry, with its checksum."""
    options = ("--registry", "http://here.example/npm/", "--no-audit", "--no-fund", "--prefix", net.folder)
    done = net.run("npm", "install", *options, "demo")
    assert done.returncode == 0, done.stdout
    assert (net.folder / "node_modules/demo/package.json").exists()


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt is not installed")
def test_apt(net: Net) -> None:
    """Package lists and a package, by the variables that sudo keeps."""
    root = net.folder / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial", "etc"):
        (root / folder).mkdir(parents=True)
    (root / "etc/sources.list").write_text("deb [trusted=yes] http://here.example/apt ./\n")
    (root / "state/status").touch()
    settings = {
        "Dir::State": root / "state",
        "Dir::State::status": root / "state/status",
        "Dir::Cache": root / "cache",
        "Dir::Etc::sourcelist": root / "etc/sources.list",
        "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": "root",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    for command in (("update",), ("download", "demo")):
        done = net.run("apt-get", "-q", *options, *command)
        assert done.returncode == 0, done.stdout
    assert list(net.folder.glob("demo_1.0_all.deb"))
