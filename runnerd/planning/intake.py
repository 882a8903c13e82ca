"""A delivery's headers and body to what the ledger stores of it and to what it means."""

from __future__ import annotations

from collections.abc import Mapping

from runnerd.forge import events
from runnerd.forge.events import Ignored
from runnerd.model import Event
from runnerd.store.records import Delivery, Repeated

_KEPT = ("user-agent", "x-github-", "x-gitea-", "x-forgejo-")


def read(
    headers: Mapping[str, str], body: bytes, received: float, repeated: Repeated
) -> tuple[Delivery, Event | Ignored]:
    """Read a delivery whose sender is known; `headers` have lower-case names. Raises `Malformed`.

    `repeated` says what a known body under a new id means; it means nothing where nothing is started.
    """
    identity, event = events.delivery_identity(headers, body)
    meaning = events.decode(event, identity, body)
    delivery = Delivery(
        id=identity,
        event=event,
        headers={name: value[:1000] for name, value in headers.items() if name.startswith(_KEPT)},
        body=body,
        received=received,
        repository=meaning.repository.full_name if isinstance(meaning, Event) else "",
        hook_id=headers.get("x-github-hook-id", "")[:200],
        repeated="fine" if isinstance(meaning, Ignored) else repeated,
    )
    return delivery, meaning
