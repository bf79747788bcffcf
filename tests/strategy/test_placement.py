"""Layers go where the `rwkv` package puts them.

The expected numbers are what its own code (0.8.30) gives; it was compared on 20,000 random strategies besides.
"""
import pytest

from rwkv_edge.strategy import parse
from rwkv_edge.strategy.placement import placements


def described(text: str, n_layer: int) -> str:
    """The part of each layer and of the head, "+" behind those that are streamed."""
    return " ".join(f"{place.part}{'+' * place.streamed}" for place in placements(parse(text).parts, n_layer + 1))


@pytest.mark.parametrize(
    ("text", "n_layer", "expected"),
    [
        ("cpu fp32", 3, "0 0 0 0"),
        ("cuda fp16 *2 -> cpu fp32", 4, "0 0 1 1 1"),
        ("cuda:0 fp16 -> cuda:1 fp16 -> cpu fp32 *1", 5, "0 0 1 1 1 2"),
        ("cuda fp16 -> cpu fp32", 5, "0 0 0 1 1 1"),
        ("cuda fp16 -> cpu fp32 -> numpy", 6, "0 0 1 1 2 2 2"),
        ("cuda fp16 *2 -> cpu fp32 *1", 5, "0 0 1 1 1 1"),
        ("cuda fp16 *20 -> cpu fp32 *1", 3, "0 0 0 0"),
        ("cuda fp16 *4 -> cpu fp32", 3, "0 0 0 0"),
        ("cuda fp16 *2+", 4, "0 0 0+ 0+ 0+"),
        ("cuda fp16 *0+ -> cpu fp32 *1", 3, "0+ 0+ 0+ 1"),
        ("cuda fp16 *1+ -> cpu fp32", 3, "0 0+ 0+ 0+"),
        ("cpu fp32 *1 -> cuda fp16 *1+ -> cpu fp32 *1", 4, "0 1 1+ 1+ 2"),
        ("cpu *9+", 3, "0 0 0 0"),
    ],
)
def test_layers_are_placed(text: str, n_layer: int, expected: str) -> None:
    assert described(text, n_layer) == expected
