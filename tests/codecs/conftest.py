"""Published tokenizers, fetched once and kept in pytest's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.codecs.open_tokenizers import qwen3_folder, smollm2_folder


@pytest.fixture(scope="session")
def package_cache(request: pytest.FixtureRequest) -> Path:
    cache = request.config.cache
    assert cache is not None
    return Path(cache.mkdir("packages"))


@pytest.fixture(scope="session")
def qwen3(package_cache: Path) -> Path:
    return qwen3_folder(package_cache)


@pytest.fixture(scope="session")
def smollm2(package_cache: Path) -> Path:
    return smollm2_folder(package_cache)
