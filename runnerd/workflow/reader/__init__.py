"""Reading workflow files: `load` and `load_cached`; one file here per noun of the language."""

from runnerd.workflow.reader.workflow import FEATURES, load, load_cached

__all__ = ["FEATURES", "load", "load_cached"]
