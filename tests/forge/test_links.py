"""Behaviour of runnerd.forge.links: addresses that nobody can guess."""

from runnerd.forge.links import NO_LINKS, Links

LINKS = Links(public_url="https://ci.example/", key=b"k" * 32)


def seal_of(address: str) -> str:
    return address.rpartition("/")[2]


def test_a_link_is_below_the_public_address():
    """It names run and job, then the seal."""
    assert LINKS.of(5, 9).startswith("https://ci.example/runs/5/jobs/9/")
    assert LINKS.of(5, None).startswith("https://ci.example/runs/5/")
    assert len(seal_of(LINKS.of(5, 9))) == 22


def test_a_seal_opens_its_own_page_only():
    """Neither another job, the run, another key nor a changed seal."""
    seal = seal_of(LINKS.of(5, 9))
    assert LINKS.fits(5, 9, seal)
    for run, job in ((5, 10), (6, 9), (5, None), (59, None)):
        assert not LINKS.fits(run, job, seal)
    for wrong in ("", seal[:-1], seal + "A", seal.swapcase(), "ö"):
        assert not LINKS.fits(5, 9, wrong)
    assert not Links(public_url=LINKS.public_url, key=b"other" * 7).fits(5, 9, seal)


def test_without_address_or_key_there_are_no_links():
    """Nothing is linked to, and no seal fits, not even that of an empty key."""
    assert NO_LINKS.of(5, 9) == Links(key=b"k").of(5, 9) == Links(public_url="https://x").of(5, 9) == ""
    assert not NO_LINKS.fits(5, 9, "")
