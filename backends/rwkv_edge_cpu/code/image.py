"""Machine code that runs wherever it lies in memory: what LLVM's object files become, so that loading them needs no LLVM.

An image begins at a page. All its references are relative, and functions of the system are called through slots: eight
bytes for each one's address, at the end.
"""
from dataclasses import dataclass

from rwkv_edge_cpu.code import system
from rwkv_edge_cpu.code.executable_memory import place


@dataclass(frozen=True, slots=True)
class Image:
    """entry: offset of the function.  slots: names of functions in `system`; the last 8 * len(slots) bytes are theirs."""

    code: bytes
    entry: int
    slots: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return " ".join((str(self.entry), *self.slots)).encode() + b"\n" + self.code

    @staticmethod
    def from_bytes(data: bytes) -> "Image":
        head, _, code = data.partition(b"\n")
        entry, *slots = head.decode().split(" ")
        return Image(code, int(entry), tuple(slots))

    def load(self) -> int:
        """The function's address in this process. Raises OSError where the system forbids it."""
        addresses = b"".join(system.address_of(name).to_bytes(8, "little") for name in self.slots)
        return place(self.code[: len(self.code) - len(addresses)] + addresses) + self.entry
