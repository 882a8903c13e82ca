"""The daemon with machines in memory that end every command at once: what everything but machines costs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runnerd import daemon, log
from runnerd.config import load
from runnerd.machines.fake import open_fake_driver

if __name__ == "__main__":
    config = load(Path(sys.argv[1]), environ=os.environ)
    log.configure(level=config.log_level)
    sys.exit(daemon.serve(config, open_driver=lambda *_: open_fake_driver()))
