"""The command that `whorl serve` prints is run by a shell and answered, whatever was taught."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra train")
from tests.studio.conftest import API_KEY, real_site
from tests.studio.many import Rules, many_tasks, many_tokens
from tests.studio.test_given import png
from tests.studio.worlds import PLAYS
from whorl.codecs.audio import AudioShape, fit_audio_codec
from whorl.codecs.contract import OWN_RULES, Tokens
from whorl.codecs.image import fit_image_codec
from whorl.codecs.label import LabelCodec
from whorl.codecs.text import train_text_codec
from whorl.stages.serve.card import ModelCard, TaskCard
from whorl.stages.serve.first_request import FirstRequest, first_request
from whorl.stages.serve.served import Served
from whorl.testing.corpus import tiny_texts, tiny_tokens
from whorl.testing.engine import FakeEngine

curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def tried(tokens: Tokens, home: Path, **options: Any) -> tuple[FirstRequest, Any]:
    """What is printed of a model, and what its server answers to it."""
    with real_site(tokens, home, 0.0, **options) as site:
        if len(tokens.codecs) > 5:
            rules = Rules(tokens)
            site.engine.score, site.engine.reply = rules.score, rules.reply
        first = first_request(site.app.state.gateway.served)
        command = first.command(site.base_url, shlex.quote(API_KEY))
        done = subprocess.run(
            ["sh", "-c", command.replace("curl ", "curl -sS --fail-with-body ")],
            cwd=home,
            capture_output=True,
            timeout=60,
        )
    assert done.returncode == 0, (command, done.stdout[:500], done.stderr)
    return first, done.stdout


@curl
def test_a_model_that_chats_is_asked_in_a_chat(tmp_path: Path) -> None:
    first, told = tried(tiny_tokens(), tmp_path)
    assert first.path == "/v1/chat/completions"
    assert json.loads(told)["choices"][0]["message"]["role"] == "assistant"


@curl
def test_a_model_that_does_not_chat_goes_on_from_a_text(tmp_path: Path) -> None:
    """For want of a template, or as it was taught texts and no chats."""
    rules = OWN_RULES.model_copy(update={"chat_template": None})
    silent = Tokens.build(dict(tiny_tokens().codecs), 512, rules)
    texts = (TaskCard(field="text", answer="text"),)
    for tokens, tasks in ((silent, ()), (tiny_tokens(), texts)):
        first, told = tried(tokens, tmp_path, tasks=tasks)
        assert first.path == "/v1/completions" and '"The shell"' in first.arguments
        assert json.loads(told)["object"] == "text_completion"
    asked = (TaskCard(field="chat", asked=("text",), answer="text"),)
    assert tried(tiny_tokens(), tmp_path, tasks=asked)[0].path == "/v1/chat/completions"


KINDS: Mapping[str, str] = {
    "images": "/v1/classify",
    "interactions": "/v1/rank",
    "triples": "/v1/rank",
    "table": "/v1/classify",
    "labels": "/v1/classify",
    "tags": "/v1/classify",
    "translation": "/v1/completions",
    "episodes": "/v1/play",
    "chess": "/v1/play",
}


@curl
@pytest.mark.parametrize("field", KINDS)
def test_a_model_is_asked_what_it_was_taught(field: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(png(np.full((28, 28), 200)))
    tasks = tuple(task for task in many_tasks() if task.field == field)
    first, told = tried(many_tokens(), tmp_path, tasks=tasks, plays=PLAYS)
    assert first.path == KINDS[field]
    answer = json.loads(told)
    assert answer["model"] == "tiny"
    if field == "table":  # the example is held out; its answer is the rule's
        assert answer["data"][0]["label"] == "versicolor"
    if field == "translation":
        assert answer["choices"][0]["text"].strip() == "das Haus ist alt."


@curl
def test_without_a_record_the_codecs_say_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 17, (30, 4, 4)).astype(np.uint8)
    (tmp_path / "image.png").write_bytes(png(np.full((4, 4), 9)))
    seen = {"image": fit_image_codec(pictures, 12, 2), "label": LabelCodec(["cat", "dog"])}
    first, told = tried(Tokens.build(seen, 64), tmp_path)
    assert first.path == "/v1/classify" and json.loads(told)["data"][0]["label"] in ("cat", "dog")
    first, told = tried(Tokens.build({"item": LabelCodec(["a", "b"], "item")}, 32), tmp_path)
    assert first.path == "/v1/rank" and json.loads(told)["num_candidates"] == 2


def test_a_model_that_hears_is_given_a_file() -> None:
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 3_000, 4_000).astype(np.int16) for _ in range(8)]
    audio = fit_audio_codec(sounds, AudioShape(8_000, 40, 20, 10.0), 2, 16)
    tokens = Tokens.build({"audio": audio, "text": train_text_codec(tiny_texts(5), 300)}, 360)
    digest = tokens.contract.digest
    card = ModelCard(name="my 'ears'", contract_digest=digest, context_tokens=256)
    engine = FakeEngine(digest)
    first = first_request(Served(engine, tokens, card, engine.close))
    engine.close()
    words = shlex.split(first.command("http://x", "key"))
    assert words[3:] == [
        "http://x/v1/audio/transcriptions",
        *("-F", "file=@sound.wav", "-F", "model=my 'ears'"),
    ]
