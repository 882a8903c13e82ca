"""Loading for good."""

import contextlib
import gc

from runnerd.cli import loading


def test_what_is_loaded_is_looked_through_no_more():
    """The collector rests meanwhile, has all that was there left to itself, and then works as before."""
    before = gc.get_freeze_count()
    try:
        with contextlib.suppress(ImportError), loading.for_good():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > before + len(kept)
    finally:
        gc.unfreeze()
