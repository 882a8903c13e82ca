"""From the arguments to a command and its exit status."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> None:
    """Run the command the arguments name; always ends by SystemExit, or with the trace of a fault of ours.

    What the host refuses, such as a full disk or somebody else's folder, is said in a sentence.
    """
    try:
        from runnerd.cli.app import build

        arguments = sys.argv[1:]
        build(arguments)(arguments, prog_name="runnerd")
    except KeyboardInterrupt:  # before the command began, which has its own ways
        raise SystemExit(130) from None
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[1] is None:  # out of the nurseries that it ended
            raise SystemExit(130) from None
        _say_or_raise(group)
    except Exception as error:
        _say_or_raise(error)


def _say_or_raise(error: BaseException) -> NoReturn:
    if os.environ.get("RUNNERD_LOG") == "debug" or (said := refusal(error)) is None:
        raise error
    print(f"runnerd: {said} (RUNNERD_LOG=debug shows where)", file=sys.stderr)
    raise SystemExit(1) from None


def refusal(error: BaseException) -> str | None:
    """Say what the operating system refused, out of the groups around it; None for all else."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if not isinstance(error, OSError):
        return None
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


if __name__ == "__main__":
    main()
