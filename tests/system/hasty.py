"""`runnerd serve` that edits a comment again after half a second, where GitHub wants to be left five.

Run as `python hasty.py serve --config FILE`. How long it waits is tested with the reporter itself.
"""

from __future__ import annotations

from runnerd.__main__ import main
from runnerd.actors import reporter

if __name__ == "__main__":
    reporter.COMMENT_PAUSE = 0.5
    main()
