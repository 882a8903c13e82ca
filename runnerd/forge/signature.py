"""Proof that a delivery's raw bytes were sent by somebody who knows the webhook secret."""

from __future__ import annotations

import hmac
from collections.abc import Sequence


class MissingSignature(Exception):
    """The delivery carries no `X-Hub-Signature-256`; `sha256=` with nothing behind it counts as none."""


class BadSignature(Exception):
    """The delivery's signature fits none of the secrets."""


def sign(body: bytes, secret: str) -> str:
    """Return the value of `X-Hub-Signature-256` for a body: `sha256=` and lower-case hexadecimal digits."""
    return "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex()


def verify(body: bytes, header: str | None, secrets: Sequence[str]) -> None:
    """Accept the body, or raise `MissingSignature` or `BadSignature`.

    Several secrets hold during a rotation; every one is tried whichever fits, in constant time. The header
    is compared as bytes, so that no character in it can make the comparison fail. Raises ValueError
    without secrets or with an empty one: nothing would be proved.
    """
    if not secrets or not all(secrets):
        raise ValueError("a webhook secret is empty: every delivery would be accepted")
    if header is None or header.strip() in ("", "sha256="):
        raise MissingSignature(
            "no X-Hub-Signature-256 header: set a secret for the webhook, the same as the daemon's"
        )
    given = header.encode("utf-8", "surrogatepass")
    fits = [hmac.compare_digest(sign(body, secret).encode(), given) for secret in secrets]
    if not any(fits):
        raise BadSignature("X-Hub-Signature-256 does not fit the body: is the secret the daemon's?")
