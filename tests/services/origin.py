"""A site of the tests' own, as a process: files for curl, git, pip, npm and apt, over HTTP and HTTPS.

`python origin.py FOLDER HOST PORT TLS_PORT` furnishes nothing and serves; it prints its two ports.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import ssl
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "here.example"


def furnish(folder: Path) -> Path:
    """Write the site and its certificate; returns the served folder."""
    site = folder / "site"
    site.mkdir(parents=True)
    (site / "hello.txt").write_text("hello from the tests\n")
    _certificate(folder)
    _git(folder, site)
    _pip(site)
    _npm(site)
    if _has("dpkg-deb"):
        _apt(folder, site)
    return site


def _run(*argv: object) -> bytes:
    return subprocess.run([str(each) for each in argv], check=True, capture_output=True).stdout


def _has(program: str) -> bool:
    return subprocess.run(["which", program], capture_output=True, check=False).returncode == 0


def _certificate(folder: Path) -> None:
    _run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"),
        *("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
        *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
    )


def _git(folder: Path, site: Path) -> None:
    work, git = folder / "work", ("git", "-c", "user.name=a", "-c", "user.email=a@b.example")
    _run("git", "init", "-q", "-b", "main", work)
    (work / "file").write_text("from git\n")
    _run(*git, "-C", work, "add", ".")
    _run(*git, "-C", work, "commit", "-q", "-m", "first")
    _run("git", "clone", "-q", "--bare", work, site / "repo.git")
    _run("git", "-C", site / "repo.git", "update-server-info")


def _pip(site: Path) -> None:
    index = site / "simple/demo"
    index.mkdir(parents=True)
    name = "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(index / name, "w") as wheel:
        wheel.writestr("demo.py", "said = 'from pip'\n")
        wheel.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        wheel.writestr(
            "demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("demo-1.0.dist-info/RECORD", "")
    (index / "index.html").write_text(f'<a href="{name}">{name}</a>\n')


def _npm(site: Path) -> None:
    (site / "npm").mkdir()
    package = json.dumps({"name": "demo", "version": "1.0.0"}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("package/package.json")
        info.size = len(package)
        tar.addfile(info, io.BytesIO(package))
    (site / "demo-1.0.0.tgz").write_bytes(packed.getvalue())
    digest = base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    dist = {"tarball": f"http://{NAME}/demo-1.0.0.tgz", "integrity": f"sha512-{digest}"}
    version = {"name": "demo", "version": "1.0.0", "dist": dist}
    about = {"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    (site / "npm/demo").write_text(json.dumps(about))


def _apt(folder: Path, site: Path) -> None:
    control = folder / "deb/DEBIAN/control"
    control.parent.mkdir(parents=True)
    fields = (
        "Package: demo\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b.example>\nDescription: demo\n"
    )
    control.write_text(fields)
    (site / "apt").mkdir()
    _run("dpkg-deb", "--root-owner-group", "-b", folder / "deb", site / "apt/demo.deb")
    data = (site / "apt/demo.deb").read_bytes()
    about = f"Filename: ./demo.deb\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (site / "apt/Packages").write_text(fields + about)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def main(folder: str, host: str, port: str, tls_port: str) -> None:
    """Serve until the standard input ends."""
    handler = partial(Quiet, directory=f"{folder}/site")
    plain = ThreadingHTTPServer((host, int(port)), handler)
    secure = ThreadingHTTPServer((host, int(tls_port)), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    for server in (plain, secure):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(plain.server_port, secure.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
