"""Reading workflow files: `load` and `load_cached`; one file here per noun of the language."""

from runnerd.workflow.reader.workflow import FEATURES, Found, load, load_cached, recall, remember

__all__ = ["FEATURES", "Found", "load", "load_cached", "recall", "remember"]
