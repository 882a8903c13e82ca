"""What stands for a job in a newer attempt of its run."""

import msgspec
import pytest

from runnerd.model import JobRecord
from runnerd.planning.newest import counterpart, the_one

OLD = JobRecord(id=12, run=5, key="m", leg=1, legs=2, name="m (2)")


def test_a_carried_job_is_found_by_where_it_ran():
    """Over any number of attempts: what an attempt carried over it names as that one did."""
    carried = JobRecord(id=20, run=9, key="m", leg=1, legs=2, name="m (2)", carried="5/12")
    others = [JobRecord(id=19, run=9, key="m", leg=0, legs=2, name="m (1)", carried="5/11")]
    assert counterpart(OLD, [*others, carried]) == carried
    later = msgspec.structs.replace(carried, id=30, run=11)
    assert counterpart(carried, [later]) == later


@pytest.mark.parametrize(
    ("leg", "legs", "found"), [(1, 2, True), (0, 2, False), (1, 3, False), (-1, 1, False)]
)
def test_a_job_that_ran_again_is_the_same_leg(leg, legs, found):
    """Of a matrix that is as it was: another leg, another matrix or one without legs yet is none."""
    again = JobRecord(id=20, run=9, key="m", leg=leg, legs=legs, name="m (2)")
    assert (counterpart(OLD, [again]) is not None) is found


@pytest.mark.parametrize(("wanted", "id"), [("12", 12), ("m (2)", 12), ("m", None), ("n", 13), ("x", None)])
def test_a_job_by_what_it_is_called(wanted, id):
    """By number, name or key; a key that has several legs is not one of them."""
    rows = [
        OLD,
        msgspec.structs.replace(OLD, id=11, leg=0, name="m (1)"),
        JobRecord(id=13, run=5, key="n", name="N"),
    ]
    found = the_one(wanted, rows)
    assert (found and found.id) == id
