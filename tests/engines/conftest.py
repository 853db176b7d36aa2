"""One briefly trained model, exported once, for every test of the engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from whorl.codecs.contract import Tokens
from whorl.core.ports import Engine
from whorl.engines.open import open_engine
from whorl.engines.openvino_export import compress_folder, export_openvino
from whorl.engines.setup import EngineSetup
from whorl.testing.corpus import tiny_texts
from whorl.testing.models import tiny_model_folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are faster on one thread, far more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hf/, f32/ and int8/ of one model."""
    root = tmp_path_factory.mktemp("engines")
    tiny_model_folder(root / "hf")
    export_openvino(root / "hf", root / "f32")
    compress_folder(root / "f32", root / "int8", "int8")
    return root


@pytest.fixture(scope="session")
def tokens(folders: Path) -> Tokens:
    return Tokens.load(folders / "hf/tokens")


@pytest.fixture(scope="session")
def prompts(tokens: Tokens) -> list[tuple[int, ...]]:
    """50 prompts of 3 to 40 ids, of texts the model was not trained on."""
    texts = tiny_texts(50, seed=7)
    return [tuple(tokens.encode_prompt(t)[: 3 + (i * 11) % 38]) for i, t in enumerate(texts)]


@pytest.fixture(scope="session")
def torch_engine(folders: Path) -> Iterator[Engine]:
    engine = open_engine(folders / "hf", name="torch", setup=EngineSetup(16))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def openvino_engine(folders: Path) -> Iterator[Engine]:
    engine = open_engine(folders / "f32", name="openvino", setup=EngineSetup(16))
    yield engine
    engine.close()


@pytest.fixture(params=["torch", "openvino"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn, for what both must promise."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found
