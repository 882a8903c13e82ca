"""Every pair of phases is allowed or refused exactly as the table of the model says."""

from itertools import product

import pytest

from runnerd.model import PHASES, Phase
from runnerd.store.errors import IllegalTransition
from runnerd.store.phases import step


@pytest.mark.parametrize(("now", "then"), list(product(Phase, Phase)))
def test_every_pair(now, then):
    """A legal step gives the new phase; an illegal one raises with the thing and both phases."""
    if then in PHASES[now]:
        assert step("job 1", now, then) is then
    else:
        with pytest.raises(IllegalTransition, match=f"job 1 is {now} and cannot become {then}"):
            step("job 1", now, then)
