"""Behaviour of runnerd.forge.signature."""

from __future__ import annotations

import pytest

from runnerd.forge import signature

SECRET = "It's a Secret to Everybody"
BODY = b"Hello, World!"
SIGNED = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_signature_is_the_one_github_documents():
    """GitHub's own test vector signs and verifies."""
    assert signature.sign(BODY, SECRET) == SIGNED
    signature.verify(BODY, SIGNED, [SECRET])


@pytest.mark.parametrize("header", [None, "", "  ", "sha256=", "sha256= "])
def test_no_signature_is_told_from_a_wrong_one(header):
    """A header that is absent, or that a forge without a secret sends, counts as missing."""
    with pytest.raises(signature.MissingSignature, match="X-Hub-Signature-256"):
        signature.verify(BODY, header, [SECRET])


@pytest.mark.parametrize(
    "header",
    [
        SIGNED.upper(),
        SIGNED.replace("sha256=", "SHA256="),
        SIGNED[:-1],
        SIGNED + "0",
        SIGNED[:-1] + "g",
        SIGNED[len("sha256=") :],
        "sha1=" + "0" * 40,
        "sha256=" + "é" * 64,
        "sha256=\udcff",
        " " + SIGNED,
        f"{SIGNED}, {SIGNED}",
    ],
)
def test_a_signature_that_does_not_fit_is_bad_whatever_its_form(header):
    """Other case, length, digits or characters never pass and never raise anything else."""
    with pytest.raises(signature.BadSignature):
        signature.verify(BODY, header, [SECRET])


def test_another_body_does_not_fit():
    """A body that was written again as other bytes is not the one that was signed."""
    with pytest.raises(signature.BadSignature):
        signature.verify(BODY + b" ", SIGNED, [SECRET])


def test_two_secrets_hold_during_a_rotation():
    """Either the new or the previous secret is accepted, and no third."""
    for secret in ("new", "old"):
        signature.verify(BODY, signature.sign(BODY, secret), ["new", "old"])
    with pytest.raises(signature.BadSignature):
        signature.verify(BODY, signature.sign(BODY, "older"), ["new", "old"])


@pytest.mark.parametrize("secrets", [[], [""], ["good", ""]])
def test_an_empty_secret_proves_nothing_and_is_refused(secrets):
    """Without a secret, or with an empty one, no delivery is ever accepted."""
    with pytest.raises(ValueError, match="empty"):
        signature.verify(BODY, signature.sign(BODY, ""), secrets)
