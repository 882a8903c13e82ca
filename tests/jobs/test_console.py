"""What becomes of a step's output."""

import pytest

from runnerd.jobs.console import Console
from runnerd.jobs.lines import LONGEST
from runnerd.jobs.masker import Masker
from runnerd.jobs.spec import JobLimits

LIMITS = JobLimits()


class Lines:
    """A log that is a list."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def begin_step(self, number: int, *, background: bool = False) -> None:
        pass

    async def end_step(self, number: int) -> None:
        pass

    async def line(self, text: str, step: int | None = None) -> None:
        self.lines.append(text)

    note = line


class Rig:
    """A console with its log and masker."""

    def __init__(self, *secrets: str, debug: bool = False, limits: JobLimits = LIMITS) -> None:
        self.log = Lines()
        self.masker = Masker(secrets)
        self.console = Console(1, self.log, self.masker, workspace="/w", debug=debug, limits=limits)

    async def print(self, text: str | bytes, *, stream: str = "stdout") -> list[str]:
        await self.console.output(stream, text.encode() if isinstance(text, str) else text)
        await self.console.end()
        return self.log.lines


async def test_output_is_logged_line_by_line():
    """The last line does not need an end."""
    assert await Rig().print("a\n\nb") == ["a", "", "b"]


async def test_annotations_are_logged_and_kept():
    """With their place; a message of several lines is several lines of the log."""
    rig = Rig()
    lines = await rig.print("::warning file=/w/a.py,line=3::one%0Atwo\n::notice::n\n::error title=T::e\n")
    assert lines == ["##[warning]one", "two", "##[notice]n", "##[error]e"]
    first = rig.console.annotations[0]
    assert (first.level, first.path, first.line, first.message, first.step) == (
        "warning",
        "a.py",
        3,
        "one\ntwo",
        1,
    )
    assert [note.level for note in rig.console.annotations] == ["warning", "notice", "error"]
    assert not rig.console.failed


async def test_only_so_many_annotations_of_a_kind_are_kept():
    """All are logged; another kind has its own count."""
    rig = Rig(limits=JobLimits(annotations=2))
    lines = await rig.print("::error::x\n" * 5 + "::notice::y\n")
    assert len(lines) == 6
    assert [note.level for note in rig.console.annotations] == ["error", "error", "notice"]


async def test_groups_are_logged_in_their_other_form():
    """As GitHub's log viewer folds them."""
    assert await Rig().print("::group::Title\nx\n::endgroup::\n") == ["##[group]Title", "x", "##[endgroup]"]


async def test_a_masked_value_is_hidden_from_then_on():
    """The command itself is not logged."""
    assert await Rig().print("before s3cret\n::add-mask::s3cret\nafter s3cret\n") == [
        "before s3cret",
        "after ***",
    ]


async def test_masking_many_values_ends_somewhere():
    """Past the limit the command fails the step instead of making every line cost more."""
    rig = Rig(limits=JobLimits(masks=2))
    await rig.print("::add-mask::aaaa\n::add-mask::bbbb\n::add-mask::cccc\n")
    assert rig.console.failed
    assert "cccc" not in "".join(rig.log.lines)


async def test_a_value_too_long_to_mask_is_dropped():
    """Its line reaches the log in no part, and the step fails."""
    rig = Rig()
    lines = await rig.print("::add-mask::" + "k" * (LONGEST + 100) + "\nnext\n")
    assert lines[-1] == "next"
    assert "kkk" not in "".join(lines)
    assert rig.console.failed


async def test_an_empty_mask_is_a_warning():
    """It would hide everything."""
    rig = Rig()
    assert await rig.print("::add-mask::\nx\n") == ["##[warning]An empty value cannot be masked.", "x"]


@pytest.mark.parametrize("command", ["set-env name=A::x", "add-path::/x"])
async def test_commands_that_anything_could_print_are_refused(command):
    """The step fails, and the error is GitHub's."""
    rig = Rig()
    (line,) = await rig.print(f"::{command}\n")
    assert rig.console.failed
    assert "command is disabled. Please upgrade to using Environment Files" in line
    assert line.startswith("##[error]Unable to process command")


async def test_a_step_may_ask_for_the_commands_anything_could_print():
    """As with GitHub's ACTIONS_ALLOW_UNSECURE_COMMANDS; a name is still needed."""
    rig = Rig()
    rig.console.unsecure = True
    assert await rig.print("::set-env name=A::x\n::add-path::/x\n") == []
    assert (rig.console.variables, rig.console.paths, rig.console.failed) == ({"A": "x"}, ["/x"], False)
    await rig.print("::set-env::x\n")
    assert rig.console.failed


async def test_old_output_commands_still_work_with_a_warning():
    """`set-output` gives an output; the warning comes once."""
    rig = Rig()
    lines = await rig.print("::set-output name=a::1\n::set-output name=b::2%0A3\n::save-state name=x::y\n")
    assert rig.console.outputs == {"a": "1", "b": "2\n3"}
    assert len(lines) == 2
    assert all("is deprecated" in line for line in lines)


async def test_an_output_without_a_name_fails():
    """What was meant cannot be known."""
    rig = Rig()
    await rig.print("::set-output::1\n")
    assert rig.console.failed


async def test_debug_lines_are_shown_when_debugging():
    """Otherwise they are not in the log."""
    assert await Rig().print("::debug::x\n") == []
    assert await Rig(debug=True).print("::debug::x\n") == ["##[debug]x"]


async def test_commands_are_echoed_when_asked():
    """`echo` switches it; a wrong value fails the step."""
    rig = Rig()
    lines = await rig.print("::echo::on\n::group::x\n::echo::off\n::group::y\n")
    assert lines == ["::group::x", "##[group]x", "::echo::off", "##[group]y"]
    await rig.print("::echo::loud\n")
    assert rig.console.failed


async def test_stopped_commands_are_text():
    """Both ends of the stop are in the log, and what is between as it was."""
    lines = await Rig().print("::stop-commands::t0k\n::error::x\n::t0k::\n::group::y\n")
    assert lines == ["::stop-commands::t0k", "::error::x", "::t0k::", "##[group]y"]


async def test_a_stop_without_a_token_fails():
    """Nothing is stopped by it."""
    rig = Rig()
    await rig.print("::stop-commands::\n::error::x\n")
    assert rig.console.failed
    assert rig.console.annotations[-1].message == "x"


async def test_hostile_output_is_only_text():
    """Escape sequences, invalid bytes, NUL and commands in the middle of lines change nothing."""
    raw = b"\x1b]8;;http://x\x07link\x1b[2J\n\xff\x00\n text ::error::x\n\x1b[0m::set-env name=A::x\n"
    rig = Rig()
    lines = await rig.print(raw)
    assert lines == [
        "\x1b]8;;http://x\x07link\x1b[2J",
        "\ufffd\x00",
        " text ::error::x",
        "\x1b[0m::set-env name=A::x",
    ]
    assert not rig.console.failed


async def test_an_endless_line_is_masked_across_its_pieces():
    """The place where the host cuts it lets no secret through."""
    rig = Rig("hunter2secret")
    for shift in range(0, 30, 3):
        text = "x" * (LONGEST - shift) + "hunter2secret" + "y" * 50
        await rig.console.output("stdout", text.encode() + b"\n")
    assert "hunter2" not in "".join(rig.log.lines)
    assert sum(line.count("***") for line in rig.log.lines) == 10


async def test_the_two_streams_do_not_mix_within_a_line():
    """Half a line of one is not ended by the other."""
    rig = Rig()
    await rig.console.output("stdout", b"out ")
    await rig.console.output("stderr", b"err\n")
    await rig.console.output("stdout", b"put\n")
    assert rig.log.lines == ["err", "out put"]


async def test_our_own_lines_are_masked_and_never_commands():
    """A secret of several lines is masked as a whole."""
    rig = Rig("ab\ncdefgh\nij")
    await rig.console.line("x: ab\ncdefgh\nij\n::error::no")
    assert rig.log.lines == ["x: ***", "::error::no"]
    assert rig.console.annotations == []
