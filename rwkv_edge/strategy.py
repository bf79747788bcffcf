"""Strategy strings: "auto", "cpu", "webgpu:1 fp16", "numpy fp64": which backend runs the model, in which weight format.

Grammar (so far): `auto` | DEVICE[:WHICH] [FORMAT]. WHICH is one of a backend's devices: its number from 0, or part of its name
(without spaces). Without a format the weights stay as stored.
"""
import re
import warnings
from dataclasses import dataclass

from rwkv_edge import registry
from rwkv_edge.backend import Backend, Executable, HasDevices
from rwkv_edge.convert.encoding import Progress
from rwkv_edge.errors import BackendError, StrategyError
from rwkv_edge.plan import Plan
from rwkv_edge.quant.convert import WORDS, converted, converted_plan

# Strategy word -> (type of the weights, precision of activations and state); None: as stored, the backend's own.
WEIGHT_FORMATS: dict[str, tuple[str | None, str | None]] = {
    **{word: (meaning.type, meaning.precision) for word, meaning in WORDS.items()},
    "fp64": (None, "fp64"),
}
FP64_DEVICES = ("numpy",)


@dataclass(frozen=True, slots=True)
class Strategy:
    """device: a backend's name, or None for the best one here.  weight_format, precision: see WEIGHT_FORMATS.

    which: one of the backend's devices, or None for its best.
    """

    device: str | None
    weight_format: str | None = None
    precision: str | None = None
    which: str | None = None


def parse(text: str) -> Strategy:
    """Read a strategy string. Raises StrategyError that points at the word that is wrong."""
    words = [(match.group(), match.start() + 1) for match in re.finditer(r"\S+", text)]
    if not words:
        raise StrategyError('the strategy is empty; expected for example "auto", "cpu" or "cpu fp32"')
    (device, device_at), *rest = words
    if len(rest) > 1:
        word, at = rest[1]
        raise StrategyError(f'strategy "{text}", character {at}: {word!r} is one word too many after DEVICE FORMAT')
    if device == "auto":
        if rest:
            raise StrategyError(f'strategy "{text}", character {rest[0][1]}: "auto" takes no format, got {rest[0][0]!r}')
        return Strategy(None)
    device, colon, which = device.partition(":")
    if device not in registry.installed():
        known = ", ".join(["auto", *sorted(registry.installed())])
        raise StrategyError(f'strategy "{text}", character {device_at}: no device {device!r}; there are: {known}')
    if colon and not which:
        at = device_at + len(device) + 1
        raise StrategyError(f'strategy "{text}", character {at}: expected a number or a name of a device behind "{device}:"')
    if not rest:
        return Strategy(device, which=which or None)
    word, at = rest[0]
    if word not in WEIGHT_FORMATS or (word == "fp64" and device not in FP64_DEVICES):
        known = ", ".join(w for w in WEIGHT_FORMATS if w != "fp64" or device in FP64_DEVICES)
        raise StrategyError(f'strategy "{text}", character {at}: {device} has no format {word!r}; expected one of: {known}')
    weight_format, precision = WEIGHT_FORMATS[word]
    return Strategy(device, weight_format, precision, which or None)


class FallbackWarning(UserWarning):
    """Another backend runs the model than the one that was preferred."""


def choose_backend(strategy: Strategy) -> Backend:
    """The backend that a strategy names, or the best one here. Raises BackendError when it cannot work."""
    if strategy.device is None:
        return registry.best()
    backend = registry.usable(strategy.device)
    if strategy.which is None:
        return backend
    if not isinstance(backend, HasDevices):
        raise StrategyError(f"{strategy.device} has no devices to choose from, got {strategy.which!r}")
    return backend.select(strategy.which)


def compiled(
    plan: Plan,
    strategy: Strategy,
    *,
    threads: int | None = None,
    sparse: bool | None = None,
    progress: Progress | None = None,
) -> tuple[Backend, Plan, Executable]:
    """The chosen backend, the plan in formats for it, and it compiled. Raises BackendError.

    threads, sparse: see `Backend`.  progress: of the conversion, see `converted_all`.

    "auto" goes on to the next backend, with a FallbackWarning, where one turns out not to run the plan.
    """
    refusals: list[BackendError] = []
    for backend in registry.candidates() if strategy.device is None else [choose_backend(strategy)]:
        if refusals:
            warnings.warn(f"running on the {backend.name} backend: {refusals[-1]}", FallbackWarning, stacklevel=3)
        placed = place(plan, strategy, backend, threads, progress)
        try:
            executable = backend.compile(placed, precision=strategy.precision, threads=threads, sparse=sparse)
        except BackendError as error:
            refusals.append(error)
        else:
            return backend, placed, executable
    raise refusals[0]


def place(
    plan: Plan, strategy: Strategy, backend: Backend, threads: int | None = None, progress: Progress | None = None
) -> Plan:
    """The plan with its matrices in a format that was asked for and that the backend computes with.

    A format the backend does not know is decoded to float32: exact, at the price of memory.
    """
    if strategy.weight_format is not None:
        plan = converted_plan(plan, strategy.weight_format, threads=threads, progress=progress)
    return plan.with_weights(lambda tensor: tensor if backend.supports(tensor.format) else converted(tensor, "f32"))
