"""A progress bar on standard error, where that is a terminal."""
import sys
import time


class ProgressBar:
    """Called with how much is done, and of how much: a line that is redrawn, at most some times a second.

    unit: what is counted, and how many of it make one that is shown, such as ("MB", 1e6).
    """

    WIDTH = 30
    INTERVAL = 0.1  # seconds

    def __init__(self, unit: str, scale: float = 1.0) -> None:
        self.unit, self.scale = unit, scale
        self.enabled = sys.stderr.isatty()
        self.start: float | None = None  # of what is counted: the first call
        self.shown = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.enabled or (now - self.shown < self.INTERVAL and done < total):
            return
        self.shown = now
        if self.start is None:
            self.start = now
        print(f"\r{self._line(done, total, now - self.start)}\x1b[K", end="", file=sys.stderr, flush=True)

    def _line(self, done: int, total: int, seconds: float) -> str:
        bar = "#" * (self.WIDTH * done // max(1, total))
        speed = done / seconds if seconds else 0.0
        left = f", {(total - done) / speed:.0f} s left" if speed and done < total else ""
        of = f"{done / self.scale:.0f} of {total / self.scale:.0f} {self.unit}"
        return f"[{bar:{self.WIDTH}}] {of}, {speed / self.scale:.0f} {self.unit}/s{left}"

    def end(self) -> None:
        """Remove the line, so that what is printed next does not follow it."""
        if self.enabled and self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
