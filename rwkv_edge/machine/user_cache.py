"""Where a user's programs keep what they can make again."""
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OVERRIDE = "RWKV_EDGE_CACHE"


def candidates() -> Iterator[Path]:
    """$RWKV_EDGE_CACHE, then our directory in the user's cache directory, where there are such; they need not exist yet."""
    if override := os.environ.get(OVERRIDE):
        with suppress(OSError):  # relative, and the current directory is gone
            yield Path(override).absolute()
    if user := _of_user():
        yield user / "rwkv_edge"


def folders(name: str) -> list[Path]:
    """What is called `name` in each of the candidates: read from any of them, write to the first that can be."""
    return [base / name for base in candidates()]


def _of_user() -> Path | None:
    if sys.platform == "win32":
        place = os.environ.get("LOCALAPPDATA", "")
    elif (place := os.environ.get("XDG_CACHE_HOME", "")) and sys.platform != "darwin":
        pass
    else:
        home = os.path.expanduser("~")  # stays "~" when unknown, and may name what does not exist (services, containers)
        place = os.path.join(home, "Library/Caches" if sys.platform == "darwin" else ".cache") if os.path.isdir(home) else ""
    return Path(place) if os.path.isabs(place) else None
