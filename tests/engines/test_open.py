"""Which folder is served by which engine, and which are refused."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from whorl.core import plugins
from whorl.core.digests import read_sealed, write_sealed
from whorl.core.errors import MissingExtra, RecordError, SpecError
from whorl.core.ports import Engine
from whorl.core.variants import Variant, find_variant
from whorl.engines import open as open_module
from whorl.engines.open import (
    EngineFactory,
    find_engine,
    forms_of,
    keep_export,
    open_engine,
    openable,
    servable,
)
from whorl.engines.setup import EngineSetup
from whorl.model.folder import change_card, read_card, seal_folder
from whorl.model.hf import save_model_folder
from whorl.testing.corpus import tiny_tokens
from whorl.testing.engine import FakeEngine
from whorl.testing.models import tiny_model, tiny_shape

IDS = [[0, 40, 50, 60, 70, 80]]
HF, F32, INT8 = Variant("hf", "f32"), Variant("openvino", "f32"), Variant("openvino", "int8")


def score_and_close(engine: Engine) -> np.ndarray:
    try:
        return engine.score(IDS)[0]
    finally:
        engine.close()


def test_auto_prefers_openvino_and_falls_back_to_torch(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(folders / "f32")
    assert engine.name == "openvino"
    expected = score_and_close(engine)
    monkeypatch.setattr(open_module, "find_spec", lambda name: None)
    engine = open_engine(folders / "hf")
    assert engine.name == "torch"
    np.testing.assert_allclose(score_and_close(engine), expected, atol=1e-4)


def test_hf_folder_is_exported_once(folders: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = score_and_close(open_engine(folders / "hf", INT8, cache_folder=cache))
    made = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert ["-".join(path.name.split("-")[1:3]) for path in cache.iterdir()] == ["openvino-int8"]
    second = score_and_close(open_engine(folders / "hf", INT8, cache_folder=cache))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == made
    direct = score_and_close(open_engine(folders / "int8"))
    assert np.array_equal(first, second) and np.array_equal(first, direct)


def test_an_export_that_was_made_before_is_found(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bytes that it would have been given, though the folder's card was changed since."""
    shutil.copytree(folders / "hf", tmp_path / "hf")
    made = tmp_path / "made"
    open_module.export_openvino(tmp_path / "hf", made)
    card = change_card(tmp_path / "hf", replace(read_card(tmp_path / "hf"), quality={"words": 1}))
    fresh = openable(tmp_path / "hf", F32, cache_folder=tmp_path / "fresh").folder
    keep_export(made, card, tmp_path / "cache")
    monkeypatch.setattr(open_module, "export_openvino", None)
    kept = openable(tmp_path / "hf", F32, cache_folder=tmp_path / "cache").folder
    assert kept.parent == tmp_path / "cache" and kept.name == fresh.name and not made.exists()
    names = sorted(path.relative_to(fresh) for path in fresh.rglob("*.*"))
    assert names == sorted(path.relative_to(kept) for path in kept.rglob("*.*"))
    assert all((fresh / name).read_bytes() == (kept / name).read_bytes() for name in names)


def test_auto_leaves_what_cannot_be_exported_to_torch(tmp_path: Path) -> None:
    shape = tiny_shape()
    attention = replace(shape.attention, window=8, windowed=(0,))
    windowed = replace(shape, attention=attention)
    weights = tiny_model(windowed).state_dict()
    save_model_folder(tmp_path / "hf", weights, windowed, tiny_tokens(512), {"prepare": "0" * 32})
    engine = open_engine(tmp_path / "hf")
    assert engine.name == "torch" and len(score_and_close(engine)) == len(IDS[0]) - 1
    for variant in (None, INT8):
        with pytest.raises(SpecError, match=r"sliding windows.*compress: none.*--engine torch"):
            open_engine(tmp_path / "hf", variant, name="openvino")
    assert forms_of(read_card(tmp_path / "hf")) == [HF]


def test_export_cache_is_below_the_home(folders: Path, isolated_home: Path) -> None:
    score_and_close(open_engine(folders / "hf"))
    (made,) = (isolated_home / ".engines").iterdir()
    assert "-openvino-f32-" in made.name


def test_the_model_itself_is_a_variant_that_torch_serves(folders: Path) -> None:
    engine = open_engine(folders / "hf", HF)  # though OpenVINO is installed
    assert engine.name == "torch"
    np.testing.assert_allclose(
        score_and_close(engine), score_and_close(open_engine(folders / "f32")), atol=1e-4
    )


def test_variants_are_chosen_by_engine_and_by_name(folders: Path, tmp_path: Path) -> None:
    there = {INT8: tmp_path, F32: folders, HF: folders / "hf"}
    assert list(servable(there)) == [INT8, F32, HF]
    assert servable(there, "torch") == {HF: folders / "hf"}
    with pytest.raises(SpecError, match=r"torch serves none.*openvino-int8"):
        servable({INT8: tmp_path}, "torch")
    assert find_variant("int8", there) == INT8 and find_variant("hf", there) == HF
    assert find_variant("openvino-f32", there) == F32
    with pytest.raises(SpecError, match=r"several variants f32.*openvino-f32, hf-f32"):
        find_variant("f32", there)
    with pytest.raises(SpecError, match=r"no variant int9.*did you mean int8"):
        find_variant("int9", there)
    forms = forms_of(read_card(folders / "hf"))
    assert forms[0] == HF and [item.bits for item in forms] == [32, 32, 8, 4]
    assert forms_of(read_card(folders / "int8")) == [INT8]


def test_an_engine_from_outside_is_chosen_by_what_it_accepts(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = EngineFactory(
        "paper",
        lambda variant: variant.format == "paper",
        lambda folder, card, setup: FakeEngine(card.contract_digest, max_running=setup.max_running),
    )
    point = SimpleNamespace(name="paper", load=lambda: outside, value="paper:ENGINE")
    monkeypatch.setattr(
        plugins, "entry_points", lambda group, name="paper": [point] if name == "paper" else []
    )
    copy = Path(shutil.copytree(folders / "hf", tmp_path / "copy"))
    paper = Variant("paper", "int4")
    seal_folder(copy, replace(read_card(copy), variant=paper))
    engine = open_engine(copy, setup=EngineSetup(3))
    assert engine.name == "fake" and find_engine("paper") is outside
    assert servable({INT8: folders, paper: copy}, "paper") == {paper: copy}
    engine.close()
    with pytest.raises(SpecError, match="torch does not serve paper int4; expected: paper"):
        open_engine(copy, name="torch")
    with pytest.raises(SpecError, match="did you mean torch"):
        find_engine("torhc")


def test_engines_that_cannot_serve_a_folder_say_so(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="torch does not serve openvino f32; expected: openvino"):
        open_engine(folders / "f32", name="torch")
    with pytest.raises(SpecError, match="torch does not serve openvino int8"):
        open_engine(folders / "hf", INT8, name="torch")
    with pytest.raises(SpecError, match="does not hold the variant openvino f32"):
        open_engine(folders / "int8", F32)
    with pytest.raises(SpecError, match="vllm does not serve openvino f32"):
        open_engine(folders / "f32", name="vllm")
    with pytest.raises(RecordError, match="not a model folder"):
        open_engine(tmp_path)


@pytest.mark.parametrize("folder", ["hf", "f32", "int8"])
def test_other_token_contract_is_refused(folder: str, folders: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders / folder, tmp_path / "copy"))
    card = read_sealed(copy / "whorl.json")
    write_sealed(copy / "whorl.json", card | {"contract_digest": "0" * 64})
    with pytest.raises(RecordError, match="refuses its token contract"):
        open_engine(copy)


def test_any_flipped_bit_of_an_export_is_found(
    folders: Path, tmp_path: Path, trials: Callable[[int], int]
) -> None:
    chooser = random.Random(0)
    copy = Path(shutil.copytree(folders / "int8", tmp_path / "copy"))
    names = sorted(path.relative_to(copy) for path in copy.rglob("*") if path.is_file())
    assert Path("openvino_model.bin") in names and Path("tokens/contract.json") in names
    for trial in range(trials(3 * len(names))):
        name = names[trial % len(names)]
        whole = (copy / name).read_bytes()
        data = bytearray(whole)
        data[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
        (copy / name).write_bytes(data)
        with pytest.raises(RecordError, match=name.name):
            open_engine(copy)
        (copy / name).write_bytes(whole)
    (copy / "openvino_tokenizer.xml").write_text("<net/>")
    with pytest.raises(RecordError, match="not part of the model"):
        open_engine(copy)


SERVE_ONLY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from whorl.core.ports import GenerateRequest
from whorl.core.collect import run_requests
from whorl.engines.open import open_engine
engine = open_engine(Path({folder!r}))
answer = run_requests(engine, [GenerateRequest("a", (0, 40, 50), 5)])[0]
print(len(answer.token_ids))
engine.close()
"""


def test_export_is_served_without_torch(folders: Path) -> None:
    absent = ["torch", "transformers", "nncf", "safetensors", "scipy", "openvino_telemetry"]
    code = SERVE_ONLY.format(absent=absent, folder=str(folders / "int8"))
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("5")


@pytest.mark.parametrize(
    ("absent", "folder", "variant", "name", "line"),
    [
        ("openvino_genai", "f32", None, "auto", "pip install 'whorl[openvino]'"),
        ("openvino", "hf", None, "openvino", "pip install 'whorl[openvino]'"),
        ("nncf", "hf", INT8, "openvino", "pip install 'whorl[openvino]'"),
        ("whorl.engines.torch_engine", "hf", None, "torch", "pip install 'whorl[train]'"),
        ("whorl.model.hf", "hf", F32, "openvino", "pip install 'whorl[train]'"),
    ],
)
def test_missing_package_names_the_line_to_install(
    absent: str,
    folder: str,
    variant: Variant | None,
    name: str,
    line: str,
    folders: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)  # importing it raises ImportError
    with pytest.raises(MissingExtra, match=re.escape(line)):
        open_engine(folders / folder, variant, name)
