"""Models to talk with."""
from pathlib import Path

import pytest

from rwkv_edge import Model
from tests.chat.scripted import Script
from tests.checkpoints.pth import write_pth
from tests.checkpoints.tiny import tiny


@pytest.fixture(scope="session")
def world_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "rwkv7-g1d-tiny.pth"
    write_pth(path, tiny("7", n_vocab=65536), dtype="f32")
    return path


@pytest.fixture(scope="session")
def world_model(world_path: Path) -> Model:
    return Model(world_path, "numpy")


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("chat") / "bytes.pth"
    write_pth(path, tiny("7", n_vocab=256), dtype="f32")
    return Model(path, "numpy")


@pytest.fixture
def script(world_model: Model, monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(world_model, monkeypatch)
