"""A kernel's text: its constants, the backend's files, and its own lines where these say so."""
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rwkv_edge_device.driver import Kernel

PACKAGE = Path(__file__).parent  # its modules write the rest of a kernel, and pack weights


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """The kernel files of a backend.

    folder, ending: where they are.  constant: a line that defines {name} as the whole number {value}.
    needs: file -> files that must stand in front of it; all stand behind `common`.
    """

    folder: Path
    ending: str
    constant: str
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def assemble(self, kernel: Kernel) -> str:
        names = ["common", *(each for name in kernel.files for each in (*self.needs.get(name, ()), name))]
        constants = dict(kernel.constants)
        constants.setdefault("WIDTH", 0)  # of `embedded`, which not all kernels call
        lines = [self.constant.format(name=name, value=value) for name, value in constants.items()]
        files = (_read(self.folder / f"{name}.{self.ending}") for name in dict.fromkeys(names))
        return "\n".join([*lines, *files]).replace("//CHOOSE", kernel.choose).replace("//BODY", kernel.body)

    def digest(self) -> str:
        """Names the text of all that decides what a device is given: kernel files, the backend's modules, and those here."""
        digest = hashlib.sha256()
        for path in sorted([*self.folder.glob(f"*.{self.ending}"), *self.folder.parent.glob("*.py"), *PACKAGE.glob("*.py")]):
            digest.update(path.read_bytes())
        return digest.hexdigest()


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
