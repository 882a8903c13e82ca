"""What a job reached, as its log shows it, within bounds."""

from runnerd.services import egress_account
from runnerd.services.egress_account import Account


async def test_a_job_that_reached_nothing_has_no_summary() -> None:
    """Nothing is said where there is nothing to say."""
    lines: list[str] = []
    await Account(_into(lines)).close()
    assert lines == []


async def test_the_busiest_places_are_named_and_the_rest_is_summed_up() -> None:
    """However many places a job reached, the log names some, and counts all."""
    lines: list[str] = []
    account = Account(_into(lines))
    for number in range(egress_account.PLACES + 5):
        account.reached(f"h{number}.example:443").sent += number
    account.reached("h7.example:443").received += 10_000
    await account.close()
    assert lines[0] == "##[group]Network"
    assert lines[1] == "h7.example:443: 2 connections, 7 bytes sent, 10,000 bytes received"
    assert len(lines) == egress_account.SHOWN + 3
    total = sum(range(egress_account.PLACES + 5))
    shown = 7 + sum(range(egress_account.PLACES - egress_account.SHOWN + 1, egress_account.PLACES))
    connections = egress_account.PLACES + 5 - egress_account.SHOWN
    # The five beyond the bound were counted together, so their bytes are among the rest.
    assert lines[-2] == (
        f"other places: {connections} connections, {total - shown:,} bytes sent, 0 bytes received"
    )


async def test_refusals_do_not_flood_the_log() -> None:
    """Each is named once, and no more than a few dozen."""
    lines: list[str] = []
    account = Account(_into(lines))
    for number in range(egress_account.LINES * 2):
        for _ in range(2):
            await account.refused(f"h{number}.example:443", "it is not on the allowlist")
    await account.close()
    assert len(lines) == egress_account.LINES + 1
    assert f"refused {egress_account.LINES * 3} more" in lines[-1]


def _into(lines: list[str]):
    async def say(line: str) -> None:
        lines.append(line)

    return say
