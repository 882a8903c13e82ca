"""Behaviour of runnerd.web.pages: text for whoever has its address, and nothing a browser would run."""

import pytest
from quart_trio import QuartTrio

from runnerd.web import pages
from runnerd.web.errors import answer_in_json


@pytest.fixture
def client():
    async def page(run, job, seal):
        return f"run {run}, job {job}: <script>ö</script>" if seal == "open-sesame" else None

    quart = QuartTrio(__name__, static_folder=None)
    answer_in_json(quart)
    pages.add(quart, page)
    return quart.test_client()


@pytest.mark.parametrize(("path", "job"), [("/runs/5", "None"), ("/runs/5/jobs/9", "9")])
async def test_the_right_seal_gives_plain_text(client, path, job):
    """It is never markup, never kept, framed, sniffed or told to others."""
    response = await client.get(f"{path}/open-sesame")
    assert (response.status_code, await response.get_data(as_text=True)) == (
        200,
        f"run 5, job {job}: <script>ö</script>",
    )
    assert response.content_type == "text/plain; charset=utf-8"
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Referrer-Policy"] == "no-referrer"


async def test_all_else_is_not_there(client):
    """A wrong seal, a number that is none and a missing seal look the same; only reading is offered."""
    for path in ("/runs/5/guess", "/runs/5/jobs/9/guess", "/runs/x/open-sesame", "/runs/5", "/runs"):
        assert (await client.get(path)).status_code == 404
    assert (await client.post("/runs/5/open-sesame")).status_code == 405
