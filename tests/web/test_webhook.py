"""Behaviour of runnerd.web.webhook: what every malformed request is told, and that nothing of it is kept."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json

import pytest
import trio

from runnerd.web import webhook
from runnerd.web.patience import Patience
from runnerd.web.webhook import Answer, Raw

BODY = b'{"ref": "refs/heads/main"}'
SECRETS = ["new secret", "old secret"]


def sign(body: bytes, secret: str = SECRETS[0]) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def verify(body: bytes, header: str | None) -> Answer | None:
    """Compare plainly: the real comparison is another room's."""
    if not header or header == "sha256=":
        return webhook.refusal(401, "no signature")
    return (
        None
        if header in [sign(body, secret) for secret in SECRETS]
        else webhook.refusal(403, "wrong signature")
    )


class Intake:
    """Keeps what it accepts."""

    def __init__(self) -> None:
        self.kept: list[Raw] = []

    async def __call__(self, raw: Raw) -> Answer:
        await trio.lowlevel.checkpoint()
        self.kept.append(raw)
        return Answer(202, {"message": "kept", "status": "success"})


def request(
    body: bytes = BODY,
    *,
    method: str = "POST",
    path: str = "/webhook",
    length: str | None = "",
    **headers: str | None,
) -> bytes:
    """Spell a request out; a header given as None is left out, `length` replaces the true one."""
    fields = {"Host": "x", "Content-Type": "application/json", "X-Hub-Signature-256": sign(body),
              "X-GitHub-Event": "push", "X-GitHub-Delivery": "d-1"}  # fmt: skip
    if length is not None:
        fields["Content-Length"] = length or str(len(body))
    fields |= {key.replace("_", "-"): value for key, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items() if v is not None)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def post(serving, data: bytes, *, wait: float = 10, **options):
    """Send one request to a fresh application; returns the reply and what was kept."""
    intake = Intake()
    async with serving(webhook.app(intake, verify=verify, **options)) as server:
        reply = await server.send(data, within=wait)
    return reply, intake.kept


async def test_a_signed_delivery_is_handed_over_as_it_came(serving):
    """The body is untouched, header names are in lower case, and the answer is the accepter's."""
    reply, kept = await post(serving, request())
    assert (reply.status, reply.json) == (202, {"message": "kept", "status": "success"})
    assert kept[0].body == BODY
    assert (kept[0].headers["x-github-event"], kept[0].peer) == ("push", "127.0.0.1")


async def test_a_body_in_pieces_is_put_together(serving):
    """A chunked body without a length is read within the same limit."""
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:5], BODY[5:])) + b"0\r\n\r\n"
    head = request(length=None, Transfer_Encoding="chunked")[: -len(BODY)]
    reply, kept = await post(serving, head + chunked)
    assert reply.status == 202
    assert kept[0].body == BODY


BARE = sign(BODY).removeprefix("sha256=")


@pytest.mark.parametrize(
    "head",
    [
        request(X_Hub_Signature_256=None, X_Gitea_Signature=BARE),
        request(X_Hub_Signature_256="sha256=", X_Forgejo_Signature=BARE, X_Gitea_Signature=BARE),
    ],
)
async def test_giteas_own_signature_counts_where_githubs_is_not_sent(serving, head):
    """The same proof without its prefix, of Gitea and of Forgejo."""
    reply, kept = await post(serving, head)
    assert (reply.status, kept[0].body) == (202, BODY)


RESERIALISED = json.dumps(json.loads(BODY), indent=1).encode()
REFUSED = {
    "no signature": (401, request(X_Hub_Signature_256=None)),
    "empty signature": (401, request(X_Hub_Signature_256="sha256=")),
    "sha1 only": (401, request(X_Hub_Signature_256=None, X_Hub_Signature="sha1=" + "0" * 40)),
    "upper case": (403, request(X_Hub_Signature_256=sign(BODY).upper())),
    "not hexadecimal": (403, request(X_Hub_Signature_256="sha256=" + "z" * 64)),
    "short": (403, request(X_Hub_Signature_256=sign(BODY)[:-2])),
    "not ASCII": (403, request(X_Hub_Signature_256="sha256=" + "\xe9" * 64)),
    "another secret": (403, request(X_Hub_Signature_256=sign(BODY, "stolen"))),
    "signed before it was written again": (403, request(RESERIALISED, X_Hub_Signature_256=sign(BODY))),
    "two signatures": (400, request(x_hub_signature_256=sign(BODY))),
    "wrong, and a right one of another forge": (
        403,
        request(X_Hub_Signature_256="sha256=" + "0" * 64, X_Gitea_Signature=BARE),
    ),
    "wrong bare signature": (403, request(X_Hub_Signature_256=None, X_Gitea_Signature="0" * 64)),
    "empty bare signature": (401, request(X_Hub_Signature_256=None, X_Gitea_Signature="")),
    "two bare signatures": (400, request(x_gitea_signature=BARE, X_Gitea_Signature=BARE)),
    "two events": (400, request(x_github_event="ping")),
    "two ids": (400, request(x_github_delivery="d-2")),
    "form": (415, request(b"payload=%7B%7D", Content_Type="application/x-www-form-urlencoded")),
    "no type": (415, request(Content_Type=None)),
    "json-ish type": (415, request(Content_Type="application/jsonp")),
    "gzip": (415, request(gzip.compress(BODY), Content_Encoding="gzip")),
    "deflate": (415, request(Content_Encoding="deflate")),
    "length and chunks": (400, request(Transfer_Encoding="chunked")),
    "two lengths": (400, request(content_length="7")),
    "negative length": (400, request(length="-1")),
    "length in words": (400, request(length="many")),
    "endless length": (413, request(length="9" * 19)),
    "unknown encoding of the transfer": (501, request(length=None, Transfer_Encoding="gzip")),
    "broken chunk": (400, request(b"zz\r\n", length=None, Transfer_Encoding="chunked")),
    "GET": (405, request(b"", method="GET")),
    "PUT": (405, request(method="PUT")),
    "another path": (404, request(path="/webhooks")),
    "a path below": (404, request(path="/webhook/x")),
    "an address as the path": (404, request(path="http://x/webhook")),
    "no HTTP": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n"),
    "a space before the colon": (400, request().replace(b"Host:", b"Host :")),
    "a folded header": (400, request().replace(b"Host: x", b"Host: x\r\n y: 1\x00")),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_malformed_request_is_refused_and_nothing_is_kept(serving, name):
    """Each gets its own 4xx with one sentence in JSON where the request could be read at all."""
    status, data = REFUSED[name]
    reply, kept = await post(serving, data)
    assert (reply.status, kept) == (status, [])
    if reply.body:
        assert isinstance(reply.json["error"], str)
    else:
        assert status in (400, 501), "only what is no HTTP is refused without words"


async def test_both_secrets_hold_during_a_rotation(serving):
    """A delivery signed with either secret is accepted."""
    for secret in SECRETS:
        reply, kept = await post(serving, request(X_Hub_Signature_256=sign(BODY, secret)))
        assert (reply.status, len(kept)) == (202, 1)


async def test_a_body_over_the_limit_is_refused_by_its_length(serving):
    """The announced length is enough: the answer comes before any body."""
    reply, kept = await post(serving, request(length="101")[: -len(BODY)], body_limit=100)
    assert (reply.status, kept) == (413, [])


@pytest.mark.parametrize("size", [100, 101])
async def test_a_body_without_a_length_is_counted(serving, size):
    """A chunked body is refused at its first byte over the limit, and accepted up to it."""
    body = b"x" * size
    head = request(body, length=None, Transfer_Encoding="chunked")[: -len(body)]
    reply, kept = await post(serving, head + b"%x\r\n%s\r\n0\r\n\r\n" % (size, body), body_limit=100)
    assert (reply.status, len(kept)) == ((202, 1) if size == 100 else (413, 0))


async def test_the_largest_body_is_25_mebibytes(serving):
    """The limit is GitHub's own, to the byte."""
    reply, kept = await post(serving, request(length=str((25 << 20) + 1))[: -len(BODY)])
    assert (reply.status, kept) == (413, [])
    body = b"x" * (25 << 20)
    reply, kept = await post(serving, request(body), wait=30)
    assert (reply.status, len(kept[0].body)) == (202, 25 << 20)


async def test_a_slow_body_ends_at_one_deadline(serving):
    """Bytes that keep dripping do not move the deadline of the whole body."""
    intake = Intake()
    async with serving(webhook.app(intake, verify=verify, body_timeout=0.5)) as server:
        with trio.fail_after(30):
            async with await server.connect() as stream, trio.open_nursery() as nursery:
                await stream.send_all(request(length="1000"))

                async def drip() -> None:
                    try:
                        while True:
                            await stream.send_all(b"x")
                            await trio.sleep(0.02)
                    except trio.BrokenResourceError:
                        pass

                nursery.start_soon(drip)
                started = trio.current_time()
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 408")
                assert trio.current_time() - started < 2
                nursery.cancel_scope.cancel()
    assert intake.kept == []


async def test_a_body_that_ends_early_is_not_kept(serving):
    """A sender that closes before its announced length leaves nothing."""
    intake = Intake()
    async with serving(webhook.app(intake, verify=verify)) as server:
        async with await server.connect() as stream:
            await stream.send_all(request(length="1000"))
            await stream.send_eof()
            with trio.fail_after(5):
                while await stream.receive_some():
                    pass
        assert (await server.send(request())).status == 202
    assert len(intake.kept) == 1


async def test_all_bodies_together_have_a_limit(serving):
    """What no memory is left for is answered 503 with a time to try again, and the room comes back."""
    intake = Intake()
    async with serving(webhook.app(intake, verify=verify, bodies_limit=1000)) as server:
        async with await server.connect() as slow:
            await slow.send_all(request(b"x" * 900, length="950"))
            with trio.fail_after(30):
                while (refused := await server.send(request(b"x" * 200))).status == 202:
                    pass  # the other's head has not been read yet
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        with trio.fail_after(5):
            while (await server.send(request(b"x" * 200))).status != 202:  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.05)


async def test_an_excess_body_is_not_taken_for_part_of_the_delivery(serving):
    """Bytes beyond the announced length are another request, and a broken one."""
    reply, kept = await post(
        serving, request(BODY + b"tail", length=str(len(BODY)), X_Hub_Signature_256=sign(BODY))
    )
    assert reply.status == 202
    assert [raw.body for raw in kept] == [BODY]


async def test_nothing_of_an_unsigned_body_is_logged(serving, capsys):
    """A refused delivery's bytes appear in no log line."""
    await post(serving, request(b'{"password": "hunter2"}', X_Hub_Signature_256="sha256=" + "0" * 64))
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err


async def test_an_accepter_that_fails_is_a_500(serving):
    """A failure inside is an answer in JSON, so that the sender knows that nothing was promised."""

    async def fail(raw: Raw) -> Answer:
        raise RuntimeError("private")

    async with serving(webhook.app(fail, verify=verify)) as server:
        reply = await server.send(request())
    assert (reply.status, list(reply.json)) == (500, ["error"])
    assert b"private" not in reply.body


async def test_githubs_signature_goes_before_others(serving):
    """Two that say different things are judged by the first alone."""
    digits = sign(BODY).removeprefix("sha256=")
    reply, kept = await post(serving, request(X_Hub_Signature_256="sha256=00", X_Gitea_Signature=digits))
    assert (reply.status, kept) == (403, [])


async def test_who_never_proves_itself_is_told_to_go_away_and_the_forge_is_not(serving):
    """From one address, as behind a proxy: unsigned requests wear it out, signed ones are still taken."""
    intake = Intake()
    now = [0.0]
    patience = Patience(lambda: now[0], burst=3, rate=1.0)
    async with serving(webhook.app(intake, verify=verify, patience=patience)) as server:

        async def told(**headers: str | None) -> int:
            return (await server.send(request(**headers), within=10)).status

        assert [await told(X_Hub_Signature_256=None) for _ in range(5)] == [401, 401, 401, 429, 429]
        assert [await told(X_Hub_Signature_256="sha256=00") for _ in range(3)] == [403] * 3
        reply = await server.send(request(X_Hub_Signature_256=None), within=10)
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert [await told() for _ in range(10)] == [202] * 10
        now[0] += 1.0
        assert await told(X_Hub_Signature_256=None) == 401
    assert len(intake.kept) == 10


async def test_a_body_that_nothing_can_prove_is_not_read(serving):
    """Without a signature the answer comes before the body does."""
    head = request(b"x" * 1000, X_Hub_Signature_256=None)[:-1000]
    reply, _ = await post(serving, head, body_timeout=30.0)
    assert reply.status == 401
