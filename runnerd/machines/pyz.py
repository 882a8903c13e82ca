"""Packs the guest agent into one file that any Python 3.11 runs, the same bytes from the same sources."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

_MAIN = b"import sys\nfrom runnerd_agent.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(out: Path) -> str:
    """Write the agent to `out`, replacing it whole, and return the sha256 of its bytes in hex."""
    data = archive()
    temporary = out.with_name(out.name + ".part")
    temporary.write_bytes(data)
    temporary.replace(out)
    return hashlib.sha256(data).hexdigest()


def archive() -> bytes:
    """The bytes of the packed agent. Stored, not deflated: its Python needs no zlib."""
    sources = {"__main__.py": _MAIN}
    for path in sorted((Path(__file__).parent / "guest").glob("*.py")):
        sources[f"runnerd_agent/{path.name}"] = path.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as packed:
        for name, data in sources.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            packed.writestr(info, data)
    return buffer.getvalue()
