"""AArch64 assembly read as text: the hot loop of a function, what is in it, and how long llvm-mca says that it takes."""
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

LABEL = re.compile(r"(\.?\w+):")
CONDITIONAL = re.compile(r"b\.?(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|any|none)|cbn?z|tbn?z")
VECTOR = re.compile(r"\b(v\d+\.|q\d+\b)")
NEGATIVE_BYTE = re.compile(r"\b0xf{14}([0-9a-f]{2})\b")  # GCC's; LLVM takes a byte
# Products of weights with activations that one instruction makes: int8 for blocks, float for plain weights.
INT_PRODUCTS = {"sdot": 16, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "smmla": 32}
FLOAT_PRODUCTS = {"fmla": 4, "fmul": 4}
ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class Loop:
    """instructions: those of one iteration, the branch back included, each as mnemonic and operands."""

    label: str
    instructions: tuple[tuple[str, str], ...]

    @property
    def loads(self) -> int:
        return sum(name.startswith("ld") for name, _ in self.instructions)

    @property
    def on_stack(self) -> int:
        """Loads and stores of values that did not fit the registers."""
        return sum("[sp" in operands for _, operands in self.instructions)

    @property
    def vectors(self) -> int:
        return sum(bool(VECTOR.search(operands)) for _, operands in self.instructions)

    def products(self, lanes: dict[str, int]) -> int:
        return sum(lanes.get(name, 0) for name, operands in self.instructions if VECTOR.search(operands))

    @property
    def text(self) -> str:
        return "\n".join([f"{self.label}:", *(f"    {name:<8}{operands}".rstrip() for name, operands in self.instructions)])


def function_lines(listing: str, function: str) -> list[str]:
    """Its labels and instructions. Raises ValueError where there is none of that name."""
    lines = [line.split("//")[0].strip() for line in listing.splitlines()]
    if f"{function}:" not in lines:
        raise ValueError(f"there is no function {function} in this listing")
    body = lines[lines.index(f"{function}:") + 1 :]
    ends = [i for i, line in enumerate(body) if re.match(rf"\.size\s+{function}\b", line)]
    return [line for line in body[: ends[0] if ends else None] if line and (LABEL.match(line) or not line.startswith("."))]


def loops(listing: str, function: str) -> list[Loop]:
    """The innermost ones: from a label to a conditional branch back to it, with no such branch between."""
    found: list[Loop] = []
    labels: dict[str, int] = {}
    code: list[tuple[str, str]] = []
    last_branch = -1
    for line in function_lines(listing, function):
        if label := LABEL.fullmatch(line):
            labels[label[1]] = len(code)
            continue
        name, _, operands = line.partition("\t") if "\t" in line else line.partition(" ")
        operands = NEGATIVE_BYTE.sub(r"0x\1", " ".join(operands.split()))
        code.append((name, operands))
        target = operands.split(",")[-1].strip()
        if CONDITIONAL.fullmatch(name) and target in labels:
            if labels[target] > last_branch:
                found.append(Loop(target, tuple(code[labels[target] :])))
            last_branch = len(code) - 1
    return found


def hot_loop(listing: str, function: str) -> Loop:
    """The loop with the most vector instructions, else with the most instructions: the others do what it leaves over."""
    candidates = loops(listing, function)
    if not candidates:
        raise ValueError(f"{function} has no loop")
    return max(candidates, key=lambda loop: (loop.vectors, len(loop.instructions)))


@cache
def mca() -> str | None:
    """The newest llvm-mca here: newer ones know more cores."""
    names = [f"llvm-mca-{version}" for version in range(40, 13, -1)] + ["llvm-mca"]
    return next((name for name in names if shutil.which(name)), None)


def cycles(loop: Loop, model: str) -> float | None:
    """Of one iteration, when all loads hit the first cache; None: llvm-mca is not here."""
    if mca() is None:
        return None
    call = [str(mca()), "-mtriple=aarch64-linux-gnu", f"-mcpu={model}", f"-iterations={ITERATIONS}"]
    call += ["-instruction-info=0", "-resource-pressure=0"]
    done = subprocess.run(call, input=loop.text + "\n", capture_output=True, text=True, check=True)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert total is not None, done.stdout
    return int(total[1]) / ITERATIONS
