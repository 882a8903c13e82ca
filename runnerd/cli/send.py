"""`runnerd send`: signs a webhook, posts it to a daemon and prints the answer."""

from __future__ import annotations

import http.client
import json as plain_json
import uuid
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from runnerd.cli import options
from runnerd.cli.output import Code, clean, fail, show_json

ANSWER_LIMIT = 1 << 20
TIMEOUT = 30.0


def send(
    event: Annotated[str, typer.Argument(help="push, pull_request, workflow_dispatch, ping, …")],
    payload: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its payload; without one, made from this checkout.")
    ] = None,
    repository: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Instead of origin's.")] = None,
    ref: Annotated[str | None, typer.Option(help="Branch or full ref, instead of the current one.")] = None,
    sha: Annotated[str | None, typer.Option(help="Commit, instead of the current one.")] = None,
    workflow: Annotated[
        str, typer.Option("--workflow", "-W", metavar="FILE", help="The file workflow_dispatch starts.")
    ] = "",
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="K=V", help="An input of workflow_dispatch.")
    ] = None,
    delivery: Annotated[str | None, typer.Option(help="Delivery id, instead of a new one.")] = None,
    url: Annotated[str | None, typer.Option(help="Instead of the configured host and port.")] = None,
    config: options.ConfigFile = None,
    json: options.Json = False,
) -> None:
    """Sign and post a webhook to a running daemon, and print its answer; exit 1 when it refuses."""
    settings = options.load_config(config)
    if reason := settings.why_not_serve():
        fail(f"cannot sign: {reason}")
    if payload is None:
        body = _from_checkout(event, repository, ref, sha, workflow, options.pairs("--input", inputs or ()))
    else:
        try:
            body = payload.read_bytes()
        except OSError as error:
            fail(f"{payload} cannot be read: {error.strerror}")
    delivery = delivery or str(uuid.uuid4())
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    target = url or f"http://{host}:{settings.server.port}/webhook"
    status, answer = post(target, event, delivery, body, settings.webhook.secrets[0])
    if json:
        show_json({"status": status, "delivery": delivery, "answer": answer})
    else:
        text = answer if isinstance(answer, str) else plain_json.dumps(answer, ensure_ascii=False)
        typer.echo(f"{status} {clean(text)}\ndelivery {delivery}")
    raise typer.Exit(Code.GREEN if 200 <= status < 300 else Code.NOT_GREEN)


def post(url: str, event: str, delivery: str, body: bytes, secret: str) -> tuple[int, Any]:
    """Sign and post one delivery; returns the status and the decoded answer (text where it is no JSON).

    Ends the command with exit status 3 when nobody answers.
    """
    from runnerd.forge.signature import sign

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        fail(f"{url!r} is no address: {error}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        fail(f"{url!r} is not an http:// or https:// address")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, port, timeout=TIMEOUT)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "runnerd-send",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": sign(body, secret),
    }
    try:
        connection.request("POST", parts.path or "/webhook", body, headers)
        response = connection.getresponse()
        text = response.read(ANSWER_LIMIT).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or error
        fail(f"no answer from {url}: {why}. Is `runnerd serve` running?", Code.UNREACHABLE)
    finally:
        connection.close()
    try:
        return response.status, plain_json.loads(text)
    except ValueError:
        return response.status, text


def _from_checkout(
    event: str,
    repository: str | None,
    ref: str | None,
    sha: str | None,
    workflow: str,
    inputs: dict[str, str],
) -> bytes:
    import msgspec
    import trio

    from runnerd.cli import checkout
    from runnerd.git.process import GitError

    if event not in checkout.EVENTS:
        known = ", ".join(checkout.EVENTS)
        fail(f"no payload can be made for {event!r}: give one with --payload, or use one of {known}")
    if event == "workflow_dispatch" and not workflow:
        fail("workflow_dispatch starts one workflow file: name it with --workflow FILE")
    try:
        facts = trio.run(checkout.describe, Path.cwd())
    except GitError as error:
        fail(f"{Path.cwd()} is no checkout with a commit ({error}): go to one, or give --payload FILE")
    if ref and not ref.startswith("refs/"):
        ref = f"refs/heads/{ref}"
    changes = {"full_name": repository, "ref": ref, "sha": sha}
    facts = msgspec.structs.replace(facts, **{name: value for name, value in changes.items() if value})
    return msgspec.json.encode(checkout.payload(event, facts, inputs=inputs, workflow=workflow))
