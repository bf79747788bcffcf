"""Where the command `rwkv-edge`, which is also `python -m rwkv_edge`, begins.

Its modules take some tenths of a second to load. An interrupt during that time, or a second one while the first is dealt with,
ends the process without a traceback.
"""
import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> int:
    """Run the process's command line; returns the exit code."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored, as behind nohup
    if ours:
        signal.signal(signal.SIGINT, _leave)
    from rwkv_edge.cli import main as command

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return command()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if ours:
            signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    """There is nothing to tidy up, yet or any more."""
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
