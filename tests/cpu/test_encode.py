"""The compiled encoders give the bytes of their NumPy definition."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rwkv_edge_cpu import backend

from rwkv_edge import auto
from rwkv_edge.backend import Availability
from rwkv_edge.quant.encode import encode
from rwkv_edge.quant.encode.schemes import SCHEMES
from rwkv_edge.quant.formats import FORMATS
from tests.quant.blocks import HOSTILE, heavy, importance, normal

pytestmark = pytest.mark.skipif(not backend.availability().available, reason=backend.availability().reason)


@pytest.mark.parametrize("format", ["q8_0", *SCHEMES])
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (3, 5), (17, 1), (2, 9)])
def test_same_bytes_for_any_shape(rows: int, blocks: int, format: str) -> None:
    width = blocks * FORMATS[format].block_size
    for x in (normal(rows, width, seed=rows) * np.float32(0.02), heavy(rows, width, seed=blocks)):
        np.testing.assert_array_equal(backend.encode(format, x), encode(format, x))
        columns = importance(width)
        np.testing.assert_array_equal(backend.encode(format, x, columns), encode(format, x, columns))


@pytest.mark.parametrize("format", list(SCHEMES))
@pytest.mark.parametrize("name", HOSTILE)
def test_same_bytes_for_hostile_blocks(name: str, format: str) -> None:
    x = HOSTILE[name][:16]
    np.testing.assert_array_equal(backend.encode(format, x), encode(format, x))


@pytest.mark.parametrize("format", list(SCHEMES))
def test_same_bytes_near_the_largest_numbers(format: str) -> None:
    x = normal(2, 512)
    x *= np.float32(0.99 * SCHEMES[format].largest) / np.abs(x).max()
    np.testing.assert_array_equal(backend.encode(format, x), encode(format, x))


def test_threads_do_not_disturb_one_another() -> None:
    x = normal(64, 1024)
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(lambda i: backend.encode("q4_k", x[i : i + 4]), range(0, 64, 4)))
    np.testing.assert_array_equal(np.concatenate(pieces), backend.encode("q4_k", x))


def test_errors_are_those_of_the_definition() -> None:
    for bad in (np.zeros((2, 33), np.float32), np.full((2, 256), np.nan, np.float32)):
        with pytest.raises(ValueError, match="q4_k"):
            backend.encode("q4_k", bad)


def test_the_registry_finds_the_fast_encoder_and_else_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    assert auto.encoder() == backend.encode
    monkeypatch.setattr(type(backend), "availability", lambda self: Availability(False, "not here"))
    assert auto.encoder() is encode
