"""From the arguments to a command and its exit status."""

from __future__ import annotations


def main() -> None:
    """Run the command the arguments name; always ends by SystemExit."""
    from runnerd.cli.app import app

    app(prog_name="runnerd")


if __name__ == "__main__":
    main()
