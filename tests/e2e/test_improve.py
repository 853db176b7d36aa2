"""One turn of the whorl: answers are given over HTTP, corrected, and the next model has learned it.

The oracle is transformers: how likely it says that corrections are, before and after.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("transformers", reason="needs the extra train")

from typer.testing import CliRunner

from tests.engines.conftest import one_thread
from tests.stages.plan.conftest import keep_calibration
from whorl.cli.main import build_app
from whorl.codecs.contract import Tokens
from whorl.core.records import RecordKey, RecordStore
from whorl.servable import find_model
from whorl.serving import open_model_app
from whorl.spec.resolved import ServeConfig
from whorl.stages.improve.registry import register
from whorl.stages.plan.given import Rehearsal
from whorl.stages.serve.server import running_server
from whorl.testing.corpus import NOUNS, VERBS
from whorl.testing.models import tiny_model_folder
from whorl.verbs import Session
from whorl.wiring import bases

__all__ = ["one_thread"]  # a fixture

KEY = "test-key-0123456789abcdef"
QUESTIONS = [f"What {verb} the {noun}?" for noun in NOUNS[:6] for verb in VERBS[:6]]
UNASKED = [f"What {verb} the {noun}?" for noun in NOUNS[6:] for verb in VERBS[6:]]
CORRECTION = "The river keeps 7 stones."
APP, RUN = build_app(), CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which a miniature is registered as `mine`; a step is rehearsed on paper."""
    home = tmp_path / "runs"
    keep_calibration(home)
    monkeypatch.setenv("WHORL_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    on_paper = Rehearsal(step_s=0.1, peak_bytes=2**28, took_s=1.0)
    monkeypatch.setattr(bases, "rehearsal_of", lambda *load: on_paper)
    store, key = RecordStore(home, "mine"), RecordKey("train", {})
    with store.write(key) as writer:
        tiny_model_folder(writer.path / "model")
    register(home, "mine", {"train": key.digest}, [])
    return home


@pytest.fixture
def client(home: Path) -> Iterator[httpx.Client]:
    config = ServeConfig(engine="torch", port=0)
    app, close = open_model_app(find_model("mine", config, home), config, KEY, home=home)
    try:
        with (
            running_server(app, config) as base_url,
            httpx.Client(
                base_url=base_url,
                headers={"Authorization": f"Bearer {KEY}"},
                trust_env=False,
                timeout=60,
            ) as found,
        ):
            yield found
    finally:
        close()


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def mean_log_likelihood(folder: Path, questions: list[str], answers: list[str]) -> float:
    """Nats of whole answers, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # for inference
    tokens, total = Tokens.load(folder / "tokens"), 0.0
    for question, answer in zip(questions, answers, strict=True):
        messages = [*asked(question), {"role": "assistant", "content": answer}]
        ids, mask = tokens.encode_chat({"messages": messages})
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0]
        chosen = logits.log_softmax(-1)[:-1].gather(1, torch.from_numpy(ids)[1:, None])[:, 0]
        total += float(chosen[torch.from_numpy(mask)[1:]].sum())
    return total / len(questions)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_a_correction_is_learned(objective: str, home: Path, client: httpx.Client) -> None:
    given = []
    for question in QUESTIONS:
        body: dict[str, Any] = {"model": "mine", "messages": asked(question), "temperature": 0}
        told = client.post("/v1/chat/completions", json={**body, "max_tokens": 12}).json()
        given.append(told["choices"][0]["message"]["content"])
        said = {"id": told["id"], "model": "mine", "messages": asked(question)}
        for opinion in ({"rating": "down"}, {"correction": CORRECTION}):
            kept = client.post("/v1/feedback", json={**said, "answer": given[-1], **opinion})
            assert kept.status_code == 200, kept.text
    assert any(text.strip() for text in given)

    done = RUN.invoke(APP, ["improve", "mine"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(row) for row in Path("mine-feedback.jsonl").read_text().splitlines()]
    assert len(rows) == len(QUESTIONS)
    written = RUN.invoke(APP, ["new", "mine2", "--data", "mine-feedback.jsonl", "--base", "mine"])
    assert written.exit_code == 0, written.output

    changes = [
        *("budget.train_time=null", "train.steps=30", "train.seq_len=64", "train.threads=1"),
        *("train.batch_tokens=512", "train.learning_rate=0.004", "compress=none"),
        f"train.objective={objective}",
    ]
    session = Session.open(Path("mine2.yaml"), overrides=changes, home=home, workers=1)
    after = session.train().folder("model")
    before = find_model("mine", ServeConfig(), home).folder
    corrections = [CORRECTION] * len(UNASKED)
    rises = [
        mean_log_likelihood(after, questions, answers) - mean_log_likelihood(before, *both)
        for both in (
            (QUESTIONS, [CORRECTION] * len(QUESTIONS)),
            (UNASKED, corrections),
            (QUESTIONS, given),
        )
        for questions, answers in [both]
    ]
    print(objective, rises)
    assert rises[0] > 1 and rises[1] > 1  # of the corrected questions, and of others of their kind
    assert rises[0] > rises[2] + 1  # more than what was answered before
