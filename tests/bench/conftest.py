"""Makes `bench` importable: it is not installed with runnerd, and is run from the checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
