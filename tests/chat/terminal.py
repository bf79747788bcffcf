"""A program in a terminal of its own, to type into and look at."""
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence


class Terminal:
    """Runs `python -c code arguments`; `screen` is all that it printed."""

    def __init__(self, code: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.screen = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-c", code, *arguments], {**os.environ, "TERM": "xterm", **environment})
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str, seconds: float = 15) -> str:
        """What was printed up to `text`; is taken from the screen."""
        end = time.monotonic() + seconds
        while text not in self.screen:
            ready, _, _ = select.select([self._fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} within {seconds} s, but {self.screen[-500:]!r}"
            try:
                self.screen += os.read(self._fd, 65536).decode(errors="replace")
            except OSError:  # the program has ended
                raise AssertionError(f"no {text!r} before the end: {self.screen[-500:]!r}") from None
        before, _, self.screen = self.screen.partition(text)
        return before

    def exit_code(self, seconds: float = 30) -> int:
        """Waits for the end, which comes by itself."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ready, _, _ = select.select([self._fd], [], [], 0.05)
            if ready:
                try:
                    self.screen += os.read(self._fd, 65536).decode(errors="replace")
                except OSError:
                    return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"did not end within {seconds} s: {self.screen[-500:]!r}")
