"""From the arguments to a command and its exit status."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command the arguments name; always ends by SystemExit."""
    from runnerd.cli.app import build

    arguments = sys.argv[1:]
    build(arguments)(arguments, prog_name="runnerd")


if __name__ == "__main__":
    main()
