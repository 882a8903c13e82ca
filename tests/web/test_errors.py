"""Behaviour of runnerd.web.errors."""

from __future__ import annotations

import pytest
from quart_trio import QuartTrio

from runnerd.web.errors import answer_in_json


@pytest.fixture
def client():
    app = QuartTrio(__name__, static_folder=None)
    answer_in_json(app)

    @app.get("/broken")
    async def broken():
        raise ValueError("private")

    return app.test_client()


async def test_refusals_are_json_with_one_sentence(client):
    """An unknown path and a wrong method say so in JSON; the methods that are allowed are named."""
    unknown = await client.get("/nothing")
    assert unknown.status_code == 404
    assert isinstance((await unknown.get_json())["error"], str)
    wrong = await client.post("/broken")
    assert wrong.status_code == 405
    assert "GET" in wrong.headers["Allow"]
    assert (await wrong.get_json())["error"]


async def test_what_was_not_foreseen_is_a_500_without_detail(client):
    """An exception's text stays in the log."""
    answer = await client.get("/broken")
    assert answer.status_code == 500
    assert "private" not in (await answer.get_data()).decode()
    assert (await answer.get_json())["error"]
