"""Takes deliveries: checks them, makes them durable, and only then says so to their sender."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import trio

from runnerd import log
from runnerd.forge import signature
from runnerd.forge.events import Ignored, Malformed
from runnerd.messages import DeliveryAccepted, DeliveryHeld
from runnerd.model import Event
from runnerd.planning import intake
from runnerd.store.ledger import Delivery, Ledger, LedgerUnavailable
from runnerd.store.records import Repeated
from runnerd.supervise.mailbox import Mailbox
from runnerd.web import guard, pages, webhook
from runnerd.web.listeners import Listen
from runnerd.web.pages import Page
from runnerd.web.webhook import Answer, Raw, refusal

RETRY_AFTER = 30
"""Seconds after which a sender is told to try again when the ledger cannot be written."""

STARTING = frozenset({"opened", "synchronize", "reopened"})
"""The actions of a pull request that start workflows which name no types."""

_log = log.get("receiver")


class ReceiverActor:
    """The public face: `POST /webhook`, answered 202 once the delivery cannot be lost any more (I1).

    Beside it are the pages that reports link to, where there is a `page` to give them.

    Whoever holds one signed body can send it under any id, for that is outside the signature: a body that
    came before is held until the `reconciler` has asked the forge, where there is one.
    Raises ValueError when made without a secret: nothing that arrives could be trusted.
    """

    name = "receiver"

    def __init__(
        self,
        listen: Listen,
        *,
        ledger: Ledger,
        parser: Mailbox[DeliveryAccepted],
        secrets: Sequence[str],
        stop: trio.Event,
        reconciler: Mailbox[DeliveryHeld] | None = None,
        body_limit: int = 25 << 20,
        body_timeout: float = 8.0,
        max_connections: int = 256,
        clock: Callable[[], float] = time.time,
        page: Page | None = None,
    ) -> None:
        if not secrets or not all(secrets):
            raise ValueError("the receiver needs a webhook secret that is not empty")
        self._listen = listen
        self._ledger = ledger
        self._parser = parser
        self._reconciler = reconciler
        self._secrets = tuple(secrets)
        self._stop = stop
        self._body_limit = body_limit
        self._body_timeout = body_timeout
        self._max_connections = max_connections
        self._clock = clock
        self._page = page

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is set; deliveries in progress are still answered.

        Raises OSError when the listeners cannot be opened.
        """
        app = webhook.app(
            self.accept, verify=self.verify, body_limit=self._body_limit, body_timeout=self._body_timeout
        )
        if self._page is not None:
            pages.add(app, self._page)
        listeners = await self._listen()
        _log.info("listening")
        await guard.serve(
            app, listeners, stop=self._stop, max_connections=self._max_connections, task_status=task_status
        )

    def verify(self, body: bytes, header: str | None) -> Answer | None:
        """Refuse a body without a signature with 401 and one with a wrong signature with 403."""
        try:
            signature.verify(body, header, self._secrets)
        except signature.MissingSignature as error:
            return refusal(401, str(error))
        except signature.BadSignature as error:
            return refusal(403, str(error))
        return None

    async def accept(self, raw: Raw) -> Answer:
        """Store a signed delivery; what is malformed is refused with 400 and not stored."""
        try:
            if len(raw.body) <= webhook.SMALL:
                delivery, meaning = self._read(raw)
            else:
                delivery, meaning = await trio.to_thread.run_sync(self._read, raw)
        except Malformed as error:
            return refusal(400, str(error))
        try:
            outcome = await self._ledger.accept_delivery(delivery)
        except LedgerUnavailable as error:
            _log.error("delivery_not_stored", delivery=delivery.id, error=str(error))
            return refusal(
                503,
                "the delivery could not be stored: send it again later",
                ("retry-after", str(RETRY_AFTER)),
            )
        if outcome == "duplicate":
            _log.info("delivery_duplicate", delivery=delivery.id)
            return _answer(200, "duplicate", "Delivery was received before; nothing is started again")
        _log.info("delivery_accepted", delivery=delivery.id, webhook_event=delivery.event[:50])
        if isinstance(meaning, Ignored):
            await self._ignore(delivery, meaning.reason)
            return _answer(200, "acknowledged", _acknowledgement(delivery.event, meaning.reason))
        if outcome == "held" and self._reconciler is not None:
            self._reconciler.offer(DeliveryHeld(delivery.id))
        else:
            self._parser.offer(DeliveryAccepted(delivery.id))
        return _answer(202, "success", _welcome(meaning))

    def _read(self, raw: Raw) -> tuple[Delivery, Event | Ignored]:
        repeated: Repeated = "remark" if self._reconciler is None else "hold"
        return intake.read(raw.headers, raw.body, self._clock(), repeated)

    async def _ignore(self, delivery: Delivery, reason: str) -> None:
        try:
            await self._ledger.ignore_delivery(delivery.id, reason)
        except LedgerUnavailable:
            # It is stored as pending: the parser comes to the same reason.
            _log.warning("delivery_not_settled", delivery=delivery.id)


def _welcome(event: Event) -> str:
    """Say what arrived, in the words of the server that came before."""
    if event.name == "pull_request":
        if event.action in STARTING:
            return "Pull request webhook received and workflow execution started"
        return f"Pull request webhook received (action={event.action})"
    kind = event.name.replace("_", " ").capitalize()
    return f"{kind} webhook received" + (f" for {event.ref}" if event.ref else "")


def _acknowledgement(event: str, reason: str) -> str:
    return "pong: the webhook is set up" if event == "ping" else f"Webhook received: {reason}"


def _answer(status: int, word: str, message: str) -> Answer:
    return Answer(status, {"message": message, "status": word})
