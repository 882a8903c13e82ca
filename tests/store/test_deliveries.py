"""A delivery is stored once and ends in exactly one recorded state."""

import pytest

from runnerd.store import deliveries
from runnerd.store.errors import IllegalTransition
from runnerd.store.records import DeliveryState


def test_what_is_stored_is_what_arrived(desk):
    """Every field and every byte of the body comes back."""
    body = bytes(range(256)) * 100
    assert desk.deliver("d1", body=body, headers={"X-Hub": "ü"}, repository="o/r", hook_id="9") == "accepted"
    record = deliveries.find(desk.connection, "d1")
    assert record.body == body
    assert record.headers == {"X-Hub": "ü"}
    assert (record.event, record.repository, record.hook_id, record.received) == ("push", "o/r", "9", 1.0)
    assert (record.state, record.reason, record.attempts) == (DeliveryState.PENDING, "", 0)


def test_a_known_id_is_a_duplicate(desk):
    """The second delivery of an id changes nothing, whatever it says."""
    assert desk.deliver("d1", body=b"first") == "accepted"
    assert desk.deliver("d1", body=b"second") == "duplicate"
    assert deliveries.find(desk.connection, "d1").body == b"first"


def test_an_unknown_delivery(desk):
    """What was never accepted is not found, and cannot end."""
    assert deliveries.find(desk.connection, "nope") is None
    with pytest.raises(LookupError, match="no delivery nope"):
        deliveries.settle(desk.connection, "nope", DeliveryState.IGNORED)
    with pytest.raises(LookupError, match="no delivery nope"):
        deliveries.payload(desk.connection, "nope")
    with pytest.raises(LookupError, match="no delivery nope"):
        deliveries.attempt(desk.connection, "nope")


def test_pending_ones_come_oldest_first(desk):
    """Only what has not ended is listed, by its time of arrival, up to the limit."""
    for id, received in (("b", 2.0), ("c", 3.0), ("a", 1.0), ("d", 4.0)):
        desk.deliver(id, received=received)
    deliveries.settle(desk.connection, "b", DeliveryState.IGNORED, "not for us")
    assert deliveries.pending(desk.connection, 2) == ["a", "c"]
    assert deliveries.pending(desk.connection, 10) == ["a", "c", "d"]


def test_the_backlog_names_repositories(desk):
    """Pending deliveries are listed with the repository they are about, in the same order."""
    desk.deliver("b", received=2.0, repository="o/two")
    desk.deliver("a", received=1.0, repository="o/one")
    desk.deliver("c", received=3.0)
    assert deliveries.backlog(desk.connection, 2) == [("a", "o/one"), ("b", "o/two")]
    assert deliveries.backlog(desk.connection, 9)[2] == ("c", "")


def test_an_end_is_final(desk):
    """The same end may be said twice; another one is refused and the reason of the first stays."""
    desk.deliver("d1")
    assert deliveries.settle(desk.connection, "d1", DeliveryState.REJECTED, "bad")
    assert not deliveries.settle(desk.connection, "d1", DeliveryState.REJECTED, "worse")
    with pytest.raises(IllegalTransition, match="d1 is rejected and cannot become ignored"):
        deliveries.settle(desk.connection, "d1", DeliveryState.IGNORED)
    assert deliveries.find(desk.connection, "d1").reason == "bad"


def test_attempts_are_counted(desk):
    """Each attempt at planning makes one more."""
    desk.deliver("d1")
    assert [deliveries.attempt(desk.connection, "d1") for _ in range(3)] == [1, 2, 3]
    assert deliveries.find(desk.connection, "d1").attempts == 3


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'"x"', b"\xff"])
def test_a_payload_is_a_json_object(desk, body):
    """A body that is none is refused with the id of its delivery."""
    desk.deliver("good", body=b'{"ref": "main"}')
    assert deliveries.payload(desk.connection, "good") == {"ref": "main"}
    desk.deliver("bad", body=body)
    with pytest.raises(ValueError, match="delivery bad is not a JSON object"):
        deliveries.payload(desk.connection, "bad")


def test_hostile_text_is_stored_clean(desk):
    """NUL and lone surrogates in names and headers neither fail nor reach the database."""
    assert desk.deliver("d\0x\ud800", repository="o/\0", headers={"a": "\ud83d"}) == "accepted"
    assert desk.deliver("d\0x\ud800") == "duplicate"
    record = deliveries.find(desk.connection, "d\0x\ud800")
    assert (record.id, record.repository, record.headers) == ("d\ufffdx?", "o/\ufffd", {"a": "?"})


def test_a_known_body_under_a_new_id_is_held(desk):
    """It is not pending before the forge's word; then it is, or it is rejected."""
    desk.deliver("d1", body=b"same")
    assert desk.deliver("d2", body=b"same", repeated="hold", repository="o/r") == "held"
    assert desk.deliver("d2", body=b"same", repeated="hold") == "duplicate"
    assert desk.deliver("d3", body=b"other", repeated="hold") == "accepted"
    assert desk.deliver("d4", body=b"same", repeated="hold") == "held"
    assert deliveries.pending(desk.connection, 9) == ["d1", "d3"]
    (first, _) = deliveries.held(desk.connection, 9)
    assert (first.id, first.repository, first.remark) == ("d2", "o/r", "its body came before, as delivery d1")
    deliveries.release(desk.connection, "d2", "")
    deliveries.settle(desk.connection, "d4", DeliveryState.REJECTED, "a copy")
    assert deliveries.pending(desk.connection, 9) == ["d1", "d2", "d3"]
    deliveries.release(desk.connection, "d4", "")
    assert deliveries.find(desk.connection, "d4").state == DeliveryState.REJECTED


def test_a_known_body_nobody_can_be_asked_about_is_taken_with_a_remark(desk):
    """It runs, and people can read that its body came before; one the forge gave itself has no remark."""
    desk.deliver("d1", body=b"same")
    assert desk.deliver("d2", body=b"same", repeated="remark") == "accepted"
    assert desk.deliver("d3", body=b"same", repeated="fine") == "accepted"
    assert "as delivery d1; the forge could not be asked" in deliveries.find(desk.connection, "d2").remark
    assert deliveries.find(desk.connection, "d3").remark == ""


def test_a_flood_of_one_repository_hides_no_other(desk):
    """When more is pending than is looked at, each repository has its oldest in the look."""
    for number in range(120):
        desk.deliver(f"flood{number:03}", received=float(number), repository="o/flood")
    for number in range(3):
        desk.deliver(f"small{number}", received=1000.0 + number, repository=f"o/small{number % 2}")
    assert deliveries.backlog(desk.connection, 80) == [
        ("flood000", "o/flood"),
        ("flood001", "o/flood"),
        ("small0", "o/small0"),
        ("small1", "o/small1"),
        ("small2", "o/small0"),
    ]
    assert len(deliveries.backlog(desk.connection, 1000)) == 123
