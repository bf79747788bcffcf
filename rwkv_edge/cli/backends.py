"""`rwkv-edge backends`: what can run models on this machine, and why the rest cannot."""
import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from rwkv_edge import registry
from rwkv_edge.auto import order
from rwkv_edge.auto.speed import speed
from rwkv_edge.backend import Device, HasDevices, ListsDevices
from rwkv_edge.errors import BackendError
from rwkv_edge.strategy.memory import readable


@dataclass(frozen=True, slots=True)
class Listed:
    """A backend as it is on this machine. reason: why it is not available, and the command that would change it.

    automatic: whether `auto` may take it.  speeds: of the devices, bytes of weights a second, or why one has none.
    """

    name: str
    available: bool
    automatic: bool
    reason: str
    devices: tuple[Device, ...]
    speeds: tuple[float | str, ...] = ()


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "List the backends that are installed: their devices, or why they cannot work here and what to install."
    parser = commands.add_parser("backends", help="list what can run models here", description=text)
    parser.add_argument("--measure", action="store_true", help='measure anew how fast each device is, which "auto" goes by')
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    found = measured() if args.measure else backends()
    if args.json:
        print(json.dumps([asdict(backend) for backend in found], indent=2))
        return
    width = max((len(backend.name) for backend in found), default=0)
    for backend in found:
        for i, line in enumerate(lines(backend)):
            print(f"{backend.name if i == 0 else '':{width}}  {line}")
    automatic = next((backend.name for backend in found if backend.available and backend.automatic), None)
    print(f'"auto" takes {automatic}' if automatic else '"auto" finds nothing here')


def backends() -> list[Listed]:
    """All that are installed, in the order of `auto`."""
    return [_found(name) for name in order.by_speed()]


def measured() -> list[Listed]:
    """The same with speeds, measured now; `auto` goes by them from here on."""
    speeds = {each.name: tuple(_speeds(each)) for each in map(_found, registry.installed()) if each.available}
    order.by_speed(anew=True)
    return [replace(each, speeds=speeds.get(each.name, ())) for each in backends()]


def _speeds(found: Listed) -> Iterator[float | str]:
    backend = registry.load(found.name)
    for i, device in enumerate(found.devices):
        try:
            yield speed(backend.select(str(i)) if isinstance(backend, HasDevices) else backend, device, anew=True)
        except BackendError as error:
            yield str(error)


def _found(name: str) -> Listed:
    availability = registry.availability(name)
    if not availability.available:
        return Listed(name, False, False, availability.reason, ())
    backend = registry.load(name)
    try:
        devices = tuple(backend.devices()) if isinstance(backend, ListsDevices) else ()
    except BackendError as error:
        return Listed(name, False, False, str(error), ())
    except Exception as error:  # a third party's package may fail in any way
        return Listed(name, False, False, f"{type(error).__name__}: {error}", ())
    return Listed(name, True, availability.automatic, "", devices)


def lines(backend: Listed) -> list[str]:
    if not backend.available:
        return [f"not available: {backend.reason}"]
    numbered = len(backend.devices) > 1
    speeds = [f", {_speed(figure)}" for figure in backend.speeds] or [""] * len(backend.devices)
    return [
        f"{f'{backend.name}:{i} is ' if numbered else ''}{device.name} ({device.kind}, {_memory(device)}{figure})"
        for i, (device, figure) in enumerate(zip(backend.devices, speeds, strict=True))
    ] or ["available"]


def _speed(figure: float | str) -> str:
    return figure if isinstance(figure, str) else f"{figure / 1e9:.1f} GB/s of weights"


def _memory(device: Device) -> str:
    return "its driver does not tell its memory" if device.memory is None else f"{readable(device.memory)} of memory"
