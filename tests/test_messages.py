"""Messages are frozen, tagged by their own name, and documented."""

import inspect

import msgspec
import pytest

from runnerd import messages

ALL = [
    kind
    for _, kind in inspect.getmembers(messages, inspect.isclass)
    if kind.__module__ == messages.__name__ and issubclass(kind, msgspec.Struct)
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_message_is_frozen_and_explained(kind: type[msgspec.Struct]) -> None:
    """What crosses a channel cannot change under its reader, and says who sends it for what."""
    assert kind.__struct_config__.frozen
    assert kind.__doc__


@pytest.mark.parametrize(
    ("message", "tag"),
    [
        (messages.DeliveryAccepted("d"), "DeliveryAccepted"),
        (messages.RunCreated(1), "RunCreated"),
        (messages.CancelRun(1), "CancelRun"),
        (messages.OutboxChanged(), "OutboxChanged"),
    ],
)
def test_a_message_says_its_name(message: msgspec.Struct, tag: str) -> None:
    """The tag tells messages of one mailbox apart, also outside this process."""
    assert msgspec.to_builtins(message)["type"] == tag
