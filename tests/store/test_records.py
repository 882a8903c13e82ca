"""Records hold what callers branch on as words of an enum that compare like text."""

from runnerd.store.records import Delivery, DeliveryState, Kind, ReportState


def test_states_compare_with_their_text():
    """Callers may compare with the plain words that the interfaces name."""
    assert [*DeliveryState] == ["held", "pending", "ignored", "rejected", "planned"]
    assert [*ReportState] == ["queued", "in_progress", "completed"]
    assert [*Kind] == ["job", "run", "comment"]


def test_deliveries_share_no_headers():
    """Two deliveries without headers do not share one map."""
    one, other = (Delivery(id=id, event="push", body=b"", received=1.0) for id in "ab")
    assert one.headers == other.headers == {}
    assert one.headers is not other.headers
