"""`rwkv-edge backends`: what can run models on this machine, and why the rest cannot."""
import argparse
import json
from dataclasses import asdict, dataclass

from rwkv_edge import registry
from rwkv_edge.backend import Device, ListsDevices
from rwkv_edge.errors import BackendError
from rwkv_edge.strategy.memory import readable


@dataclass(frozen=True, slots=True)
class Found:
    """A backend as it is on this machine. reason: why it is not available, and the command that would change it.

    automatic: whether `auto` may take it.
    """

    name: str
    available: bool
    automatic: bool
    reason: str
    devices: tuple[Device, ...]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "List the backends that are installed: their devices, or why they cannot work here and what to install."
    parser = commands.add_parser("backends", help="list what can run models here", description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    found = backends()
    if args.json:
        print(json.dumps([asdict(backend) for backend in found], indent=2))
        return
    width = max((len(backend.name) for backend in found), default=0)
    for backend in found:
        for i, line in enumerate(lines(backend)):
            print(f"{backend.name if i == 0 else '':{width}}  {line}")
    automatic = next((backend.name for backend in found if backend.available and backend.automatic), None)
    print(f'"auto" takes {automatic}' if automatic else '"auto" finds nothing here')


def backends() -> list[Found]:
    """All that are installed, in the order of `auto`."""
    known = registry.installed()
    order = [name for name in registry.AUTO_ORDER if name in known]
    return [_found(name) for name in [*order, *sorted(set(known) - set(order))]]


def _found(name: str) -> Found:
    availability = registry.availability(name)
    if not availability.available:
        return Found(name, False, False, availability.reason, ())
    backend = registry.load(name)
    try:
        devices = tuple(backend.devices()) if isinstance(backend, ListsDevices) else ()
    except BackendError as error:
        return Found(name, False, False, str(error), ())
    return Found(name, True, availability.automatic and name in registry.AUTO_ORDER, "", devices)


def lines(backend: Found) -> list[str]:
    if not backend.available:
        return [f"not available: {backend.reason}"]
    numbered = len(backend.devices) > 1
    return [
        f"{f'{backend.name}:{i} is ' if numbered else ''}{device.name} ({device.kind}, {_memory(device)})"
        for i, device in enumerate(backend.devices)
    ] or ["available"]


def _memory(device: Device) -> str:
    return "its driver does not tell its memory" if device.memory is None else f"{readable(device.memory)} of memory"
