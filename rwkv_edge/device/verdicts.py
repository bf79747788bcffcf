"""What self-tests found, kept in the user's cache directory: a device and driver are tested once."""
import hashlib
import json
import os
from pathlib import Path

from rwkv_edge import user_cache


def _file(*key: str) -> Path | None:
    """key: whatever the result depends on: device, driver, versions, kernel sources."""
    base = next(user_cache.candidates(), None)
    return base / f"self-test-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.json" if base else None


def recall(*key: str) -> str | None:
    """What was found: "" for a device that computes rightly, else what was wrong; None: not tested yet."""
    path = _file(*key)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None
    wrong = found.get("wrong") if isinstance(found, dict) else None
    return wrong if isinstance(wrong, str) else None


def remember(wrong: str, *key: str) -> None:
    """Keeps what was found where it can; a device is tested again where it cannot."""
    if (path := _file(*key)) is None:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        passing = path.with_suffix(f".{os.getpid()}.tmp")
        passing.write_text(json.dumps({"tested": key, "wrong": wrong}), encoding="utf-8")
        os.replace(passing, path)
    except OSError:
        return
