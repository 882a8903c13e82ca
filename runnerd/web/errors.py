"""Every refusal of an HTTP application as JSON: `{"error": SENTENCE}`."""

from __future__ import annotations

import msgspec
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from runnerd import log

_log = log.get(__name__)


def answer_in_json(app: QuartTrio) -> None:
    """Make an application answer what goes wrong in JSON; what it did not foresee is logged as well."""

    async def refused(error: HTTPException) -> Response:
        response = json_error(error.code or 500, error.description or error.name)
        for name, value in error.get_headers():
            if name.lower() == "allow":
                response.headers[name] = value
        return response

    async def failed(error: Exception) -> Response:
        _log.error("request_failed", exc_info=error)
        return json_error(500, "the daemon failed on this request; its log says why")

    app.register_error_handler(HTTPException, refused)
    app.register_error_handler(Exception, failed)


def json_error(status: int, error: str) -> Response:
    """Build the answer to a request that goes no further."""
    return Response(msgspec.json.encode({"error": error}), status, content_type="application/json")
