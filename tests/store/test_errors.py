"""Callers can tell the refusals of the ledger apart."""

from itertools import permutations

import pytest

from runnerd.store import errors

REFUSALS = [errors.CannotOpen, errors.IllegalTransition, errors.LedgerUnavailable, errors.StaleEpoch]


@pytest.mark.parametrize(("one", "other"), list(permutations(REFUSALS, 2)))
def test_no_refusal_is_caught_as_another(one, other):
    """Catching one kind never hides another kind."""
    assert not issubclass(one, other)
