"""What the backends of this room are to the registry. Importing this loads no device's library."""
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from typing import ClassVar

from rwkv_edge.backend import (
    DEFAULT_OPTIONS,
    AsStored,
    Availability,
    CompileOptions,
    ConvertsWeights,
    Device,
    Executable,
    Traits,
)
from rwkv_edge.errors import BackendError
from rwkv_edge.machine.memory import total_memory
from rwkv_edge.plan import Embed, MatMul, Op, Plan
from rwkv_edge.quant.formats import FORMATS
from rwkv_edge_device.driver import Driver
from rwkv_edge_device.features import unwanted
from rwkv_edge_device.found import Compiler, Found, choose
from rwkv_edge_device.source import Sources

WITHOUT_MEMORY = ("integrated", "software")  # of their own
logger = logging.getLogger("rwkv_edge.devices")


class DeviceBackend(ABC):
    """See `rwkv_edge.backend.Backend`, `HasDevices`, `ListsDevices`. A subclass finds devices and opens one.

    library: the package that it needs, which the extra of the backend's name installs.  noun: what messages call a device.
    none_found: a sentence.  sources: the kernels.
    """

    name: ClassVar[str]
    traits: ClassVar[Traits]
    library: ClassVar[str]
    noun: ClassVar[str]
    none_found: ClassVar[str]
    sources: ClassVar[Sources]

    def __init__(self, which: str | None = None) -> None:
        self._which = which

    @abstractmethod
    def found(self) -> list[Found]:
        """This machine's devices that can run the kernels, best first."""

    @abstractmethod
    def open(self, device: Found) -> Driver:
        """Raises BackendError where it cannot be opened."""

    def select(self, which: str) -> "DeviceBackend":
        """The backend on another device: its number, or part of its name. Raises BackendError where there is none."""
        if found := self.found():
            choose(found, which, self.noun)
        return type(self)(which)

    def availability(self) -> Availability:
        install = f"pip install 'rwkv-edge[{self.name}]'"
        if find_spec(self.library) is None:
            return Availability(False, f"{self.library} is not installed: {install}")
        try:
            found = self.found()
        except Exception as error:  # native libraries may fail to load in many ways
            return Availability(False, f"{self.library} cannot be used ({error}): {install}")
        if not found:
            return Availability(False, self.none_found)
        return Availability(True, f"on {found[0].describe()}", automatic=found[0].kind != "software")

    def devices(self) -> list[Device]:
        """See `rwkv_edge.backend.ListsDevices`. A device without memory of its own has the machine's."""
        machines = {kind: total_memory() for kind in WITHOUT_MEMORY}
        return [Device(d.name, d.kind, d.memory or machines.get(d.kind), f"{d.api} {d.driver}") for d in self.found()]

    def shares_memory(self) -> bool:
        """See `rwkv_edge.backend.SharesMemory`."""
        return bool(found := self.found()) and choose(found, self._which, self.noun).kind in WITHOUT_MEMORY

    def supports(self, op: Op) -> bool:
        from rwkv_edge_device.fusion import OPS

        return isinstance(op, OPS) and (not isinstance(op, MatMul | Embed) or op.weight.format in FORMATS)

    def compile(self, plan: Plan, options: CompileOptions = DEFAULT_OPTIONS) -> Executable:
        """precision: None or "fp32", of activations and states.  threads, sparse: of no use here. See `compile_converting`."""
        return self.compile_converting(plan, AsStored(), options)

    def compile_converting(self, plan: Plan, conversions: ConvertsWeights, options: CompileOptions) -> Executable:
        """See `rwkv_edge.backend.CopiesWeights`.

        The first call for a device and driver runs a trial and a self-test (seconds), whose results are remembered.
        Raises BackendError where there is no such device, or it has too little memory, or computes wrongly.
        """
        if options.precision not in (None, "fp32"):
            wanted = f"in fp32, not in {options.precision}"
            raise BackendError(f"the {self.name} backend computes {wanted}; the numpy backend offers fp64")
        from rwkv_edge_device.executable import DeviceExecutable

        if not (found := self.found()):
            raise BackendError(self.none_found)

        def compiler(device: Found) -> Callable[[Plan], DeviceExecutable]:
            return lambda plan: DeviceExecutable(plan, self.open(device))

        device = self._tested(compiler, choose(found, self._which, self.noun).without(*unwanted()))
        features = f" with {', '.join(device.features)}" if device.features else ""
        logger.info("%s runs on %s%s", self.name, device.describe(), features)
        executable = DeviceExecutable(plan, self.open(device), conversions)
        executable.prepare()
        return executable

    def _tested(self, compiler: Compiler, device: Found) -> Found:
        """With features that pay and that work: what only some devices have is what their drivers get wrong first."""
        from rwkv_edge_device.trial import FEATURE, as_is_faster

        key = version(self.library), self.sources.digest()
        with suppress(BackendError):  # a device that does not run at all says so below
            device = as_is_faster(compiler, device, *key)
        problem = ""
        choices = (device, device.without(FEATURE), device.without(*device.features))
        for fewer in {choice.features: choice for choice in choices}.values():
            wrong = _wrong(compiler, fewer, *key)
            if not wrong:
                if problem:
                    without = ", ".join(name for name in device.features if name not in fewer.features)
                    logger.warning("%s goes on without %s: %s", device.name, without, problem)
                return fewer
            problem = problem or wrong
        raise BackendError(f"{device.describe()} computes wrongly ({wrong}); update its driver, or use the cpu backend")


def _wrong(compiler: Compiler, device: Found, *key: str) -> str:
    """What is wrong with a device with its features, or "". Raises BackendError where one without features does not run."""
    from rwkv_edge_device.self_test import wrong_once

    try:
        return wrong_once(compiler(device), device.describe(), *device.features, device.driver, *key)
    except BackendError as error:  # a compiler that refuses the features; or no memory: it is not remembered
        if not device.features:
            raise
        return str(error)
