"""Compiled blocks against the same blocks as they are written, and against themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from tests.stages.train.work import config, tiny_shape
from whorl.core.errors import ResourceError
from whorl.launch.rehearsal import made_up_batch
from whorl.model.compiled import Around, after_attention, before_attention
from whorl.model.transformer import Transformer
from whorl.stages.train.initial import initialise
from whorl.stages.train.process import training_process
from whorl.stages.train.trainer import Trainer

SETTINGS = {"lanes": 2, "threads": 2, "micro_batch_rows": 2}
RESUMED = """
import sys
from pathlib import Path
from tests.stages.train.test_damage import check_resumed_is_whole
from tests.stages.train.work import make_prepared
folder = Path(sys.argv[1])
settings = dict(lanes=2, threads=2, micro_batch_rows=2, compiled=True, steps=6)
check_resumed_is_whole(folder, make_prepared(folder / "home"), settings, after=3)
"""
PLAIN = Around(before_attention, after_attention)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def _compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    yield
    torch.compiler.reset()


def random_model(family: str = "qwen3") -> Transformer:
    model = Transformer(tiny_shape(family=family))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.15, generator=generator)
            parameter.add_(1.0 if parameter.ndim == 1 else 0.0)
    return model


def gradient(who: Trainer, mixed_rows: int) -> torch.Tensor:
    batch = made_up_batch(who.model.shape, who.config, mixed_rows)
    who.gradients(batch, batch.trained_tokens)
    found = [p.grad.flatten().double() for p in who.parameters if p.grad is not None]
    assert len(found) == len(who.parameters)
    return torch.cat(found)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_formulas_have_the_gradient_of_the_blocks(family: str, precision: str) -> None:
    """Not compiled; in float64 to the last digits, in bf16 to its own."""
    exact = precision == "fp32"
    model = random_model(family).to(torch.float64 if exact else torch.float32)
    who = Trainer(model, config(precision=precision))
    expected = gradient(who, 1)
    model.compute_by(PLAIN)
    found = gradient(who, 1)
    assert (found - expected).norm() < (1e-12 if exact else 0.05) * expected.norm()
    assert not torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of torch's own modules
def test_compiled_blocks_have_the_same_gradient_and_loss() -> None:
    """Compiled once for rows with masks and without, by two lanes; the same bits again."""
    model = random_model()
    batches = config(**SETTINGS)
    with training_process(batches):
        plain = Trainer(model, batches)
        expected = [gradient(plain, mixed_rows) for mixed_rows in (0, 1)]
        heldout = made_up_batch(model.shape, batches, 1)
        loss = plain.heldout_loss([heldout])
        counters.clear()
        compiled = Trainer(model, config(**SETTINGS, compiled=True))
        found = [gradient(compiled, mixed_rows) for mixed_rows in (0, 1)]
        again = [gradient(compiled, mixed_rows) for mixed_rows in (0, 1)]
        assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]
        assert compiled.heldout_loss([heldout]) == loss
        for lanes in (plain.lanes, compiled.lanes):
            lanes.close()
    for one, other in zip(expected, found, strict=True):
        assert 0 < (one - other).norm() < 1e-5 * one.norm()
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_stopped_and_run_again_the_bits_are_the_same(tmp_path: Path) -> None:
    """In a process of its own, as trainings are: compiled code stays loaded until it ends."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", RESUMED, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_without_a_compiler_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = Transformer(tiny_shape())
    initialise(model, 0)
    with pytest.raises(ResourceError, match=r"no C\+\+ compiler") as caught:
        Trainer(model, config(compiled=True))
    assert caught.value.do == "set train.compiled=false"
