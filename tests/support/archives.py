"""Archives, written in memory."""

import io
import tarfile
from typing import Any


def tar_of(members: list[tuple[str, bytes]], packing: str = "", **fields: Any) -> bytes:
    """A .tar archive, or with "gz" a packed one, of (name, content); `fields` are set in every member's header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{packing}", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()
