"""How much of the machine others took while a command ran: the first thing to look at when its numbers surprise."""
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """Seconds since some moment: of the clock, of all cores' work, of the work of this command, of work the host held up."""

    clock: float
    all: float
    ours: float
    stolen: float


def usage() -> Usage | None:
    """Now; None where the system does not tell. Processes of ours count once they have ended and were waited for."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (n / os.sysconf("SC_CLK_TCK") for n in fields)
    own = sum(os.times()[:4])
    return Usage(time.monotonic(), user + nice + system + irq + softirq, own, steal)


BEGIN = usage()  # when the command was started, as it imports this


def summary() -> str:
    """For example "others took 0.02 cores, the host 0.00"."""
    now = usage()
    if BEGIN is None or now is None:
        return "others' load unknown"
    clock = now.clock - BEGIN.clock
    others = max(0.0, (now.all - BEGIN.all) - (now.ours - BEGIN.ours)) / clock
    return f"others took {others:.2f} cores, the host {(now.stolen - BEGIN.stolen) / clock:.2f}"
