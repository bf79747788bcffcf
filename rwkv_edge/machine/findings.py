"""What was found out about this machine, kept in the user's cache directory so that it is found out once."""
import hashlib
import json
import os
from pathlib import Path

from rwkv_edge.machine import user_cache


def _file(kind: str, key: tuple[str, ...]) -> Path | None:
    base = next(user_cache.candidates(), None)
    return base / f"{kind}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.json" if base else None


def recall(kind: str, *key: str) -> object:
    """What was remembered; None: nothing, or what cannot be read.

    key: whatever the finding depends on: device, driver, versions.
    """
    path = _file(kind, key)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None
    return content.get("found") if isinstance(content, dict) else None


def remember(kind: str, found: str | float | list[str], *key: str) -> None:
    """Keeps it where it can; it is found out again where it cannot."""
    if (path := _file(kind, key)) is None:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        passing = path.with_suffix(f".{os.getpid()}.tmp")
        passing.write_text(json.dumps({"of": key, "found": found}), encoding="utf-8")
        os.replace(passing, path)
    except OSError:
        return
