"""Strategy strings are read, and mistakes are pointed at."""
import pytest

from rwkv_edge import StrategyError
from rwkv_edge.cli import main
from rwkv_edge.demo import MODEL_PATH
from rwkv_edge.strategy import Part, Strategy, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", [Part()]),
        ("cpu", [Part("cpu")]),
        (" cpu   fp32 ", [Part("cpu", "f32", "fp32")]),
        ("cpu q8_0", [Part("cpu", "q8_0")]),
        ("webgpu fp16", [Part("webgpu", "f16")]),
        ("webgpu int8", [Part("webgpu", "q8_0")]),
        ("webgpu q4_0", [Part("webgpu", "q4_0")]),
        ("cpu q4_k", [Part("cpu", "q4_k_m")]),
        ("cpu bf16", [Part("cpu", "bf16")]),
        ("webgpu:1", [Part("webgpu", which="1")]),
        ("webgpu:radeon fp16", [Part("webgpu", "f16", which="radeon")]),
        ("numpy", [Part("numpy")]),
        ("numpy fp32", [Part("numpy", "f32", "fp32")]),
        ("numpy fp64", [Part("numpy", None, "fp64")]),
        ("cpu *3", [Part("cpu", layers=3)]),
        ("cpu q8_0 *20+", [Part("cpu", "q8_0", layers=20, streams=True)]),
        ("cpu *0+", [Part("cpu", layers=0, streams=True)]),
        ("webgpu:1 fp16i8 *12 -> cpu q4_0", [Part("webgpu", "q8_0", which="1", layers=12), Part("cpu", "q4_0")]),
        ("cuda:0 fp16i8 *10->cpu fp32", [Part("cuda", "q8_0", which="0", layers=10), Part("cpu", "f32", "fp32")]),
        ("numpy -> cpu -> numpy *1", [Part("numpy"), Part("cpu"), Part("numpy", layers=1)]),
    ],
)
def test_strategies_are_read(text: str, expected: list[Part]) -> None:
    assert parse(text) == Strategy(tuple(expected))


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("auto <1.5GB", 1_500_000_000), ("cpu <800MB", 800_000_000), ("cpu q8_0 < .5 gib", 1 << 29), ("auto<64kb", 64_000)],
)
def test_memory_budgets_are_read(text: str, nbytes: int) -> None:
    assert parse(text).budget == nbytes


MISTAKES = [
    ("", "empty"),
    ("  ", "empty"),
    ("gpu", "character 1: no device 'gpu'; there are: auto, cpu, "),
    ("cpu fp33", "character 5: cpu has no format 'fp33'"),
    ("cpu fp64", "character 5: cpu has no format 'fp64'; expected one of: "),
    ("cpu fp32 now", "character 10: 'now' is one word too many"),
    ("gpu:1", "character 1: no device 'gpu'"),
    (" webgpu: fp16", "character 9: expected a number or a name"),
    ("webgpu:1 fp33", "character 10: webgpu has no format 'fp33'"),
    ("auto fp32", 'character 6: "auto" takes no format'),
    ("auto *3", 'character 6: "auto" takes no number of layers'),
    ("cpu fp32*3", "character 5: cpu has no format 'fp32*3'"),
    ("cpu fp32 *", "character 10: expected a number of layers"),
    ("cpu *x", "character 5: expected a number of layers"),
    ("cpu *-1", "character 5: expected a number of layers"),
    ("cpu *\u0663", "character 5: expected a number of layers"),
    ("cpu *" + "9" * 5000, "character 5: expected a number of layers"),
    ("cpu *0", "character 5: a part needs at least one layer"),
    ("cpu *3 q8_0", "character 8: 'q8_0' is one word too many after DEVICE FORMAT *LAYERS"),
    ("cpu *3 ->", "character 10: expected a device"),
    ("-> cpu", "character 1: expected a device"),
    ("cpu -> -> cpu", "character 8: expected a device"),
    ("cpu -> gpu", "character 8: no device 'gpu'"),
    ("cpu -> auto", 'character 8: "auto" stands alone'),
    ("cpu *3+ -> numpy *2+", 'character 18: only one part can take the rest with "+"'),
    ("cpu <", "character 6: expected a size"),
    ("cpu <1", "character 6: expected a size"),
    ("cpu <1.5XB", "character 9: no unit of memory 'XB'"),
    ("cpu <0GB", "character 6: a memory budget is more than nothing"),
    ("cpu <1GB <2GB", "character 6: expected a size"),
    ("cpu <1GB fp16", "character 6: expected a size"),
    ("cpu *2 <1GB", "character 8: a memory budget goes with one device"),
    ("cpu -> numpy <1GB", "character 14: a memory budget goes with one device"),
    ("<1GB", "character 1: expected a device"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes_are_pointed_at(text: str, message: str) -> None:
    with pytest.raises(StrategyError) as caught:
        parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_the_command_says_so_in_one_line(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(MODEL_PATH), "-p", "x", "--strategy", text]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("rwkv-edge: ")


def test_a_strategy_is_text() -> None:
    with pytest.raises(StrategyError, match="is text, got int"):
        parse(3)  # type: ignore[arg-type]
