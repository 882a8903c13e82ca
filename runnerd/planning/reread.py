"""A run's workflow once more, from the text that the ledger has kept of it."""

from __future__ import annotations

from runnerd.model import RunRecord
from runnerd.reading.process import Reader
from runnerd.store.ledger import Ledger
from runnerd.workflow.model import Workflow


async def reread(run: RunRecord, *, ledger: Ledger, reader: Reader) -> Workflow:
    """The file with every workflow it calls, as they were when the run was planned.

    Raises `WorkflowErrors` where this version cannot read it any more.
    """
    source = await ledger.source(run.source)
    if not run.called:
        return await reader.load(source, run.workflow_path)
    files = {name: await ledger.source(file.source) for name, file in run.called.items()}
    return await reader.load_whole(source, run.workflow_path, files, {})
