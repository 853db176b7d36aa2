"""Two models side by side, against answers and scores of the torch models themselves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from whorl.cli.main import build_app
from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError, SpecError
from whorl.core.variants import Variant
from whorl.model.hf import load_model_folder
from whorl.testing.corpus import tiny_texts
from whorl.testing.models import tiny_model_folder
from whorl.wiring.diff import Compared, compare_models, read_examples


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("diff")
    tiny_model_folder(root / "one", steps=60)
    tiny_model_folder(root / "other", steps=10)
    return root


def by_torch(folder: Path, prompt: str, text: str, num_tokens: int) -> tuple[str, float]:
    """(greedy answer, bits per byte of a text with its end)."""
    model, _, tokens, _ = load_model_folder(folder)
    ids = tokens.encode_prompt(prompt)
    answer: list[int] = []
    with torch.no_grad():
        for _ in range(num_tokens):
            best = int(model.logits(model(torch.tensor([ids + answer])))[0, -1].argmax())
            answer.append(best)
            if best in tokens.contract.stop_ids:
                break
        whole = torch.tensor([*tokens.encode_prompt(text), *tokens.contract.end_ids])
        logits = model.logits(model(whole[None]))[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], whole[1:], reduction="sum")
    return tokens.decode(answer), float(loss) / math.log(2) / len(text.encode())


def test_answers_and_scores_are_those_of_the_models(folders: Path, tmp_path: Path) -> None:
    texts = [text[:200] for text in tiny_texts(6, seed=4)]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    found = compare_models(
        Compared("one", folders / "one", Variant("hf", "f32")),
        Compared("other", folders / "other", Variant("hf", "f32")),
        home=tmp_path,
        examples=read_examples(file),
        num_answers=3,
        answer_tokens=12,
    )
    assert found["second"]["variant"] == "hf f32"
    rows = {row["name"]: row for row in found["scores"]["per_document"]}
    for number, text in enumerate(texts):
        name = f"texts.jsonl:{number + 1}"
        answers = {}
        for key, folder in (("first", "one"), ("second", "other")):
            prompt = text[: int(0.25 * len(text))]
            answers[key], bits = by_torch(folders / folder, prompt, text, 12)
            assert rows[name][key] == pytest.approx(bits, rel=1e-4)
        if number < 3:
            row = found["answers"][number]
            assert (row["first"], row["second"]) == (answers["first"], answers["second"])
            at = row["parts_at"]
            if at is None:
                assert answers["first"] == answers["second"]
            else:
                assert answers["first"][:at] == answers["second"][:at]
                assert answers["first"][at : at + 1] != answers["second"][at : at + 1]
    scores = found["scores"]
    assert scores["better"] == "first" and scores["num_worse"] == len(texts)
    losses = [row["difference"] for row in scores["per_document"]]
    assert losses == sorted(losses, reverse=True) and scores["difference_low"] > 0
    sizes = np.array([len(text.encode()) for text in texts])
    ours = np.array([rows[f"texts.jsonl:{n + 1}"]["first"] for n in range(len(texts))])
    assert scores["first"] == pytest.approx((ours * sizes).sum() / sizes.sum())


def test_files_of_prompts_and_chats(folders: Path, tmp_path: Path) -> None:
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "A shell?"}]}
    answered = {"messages": [*chat["messages"], {"role": "assistant", "content": "Yes, it is."}]}
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(map(json.dumps, [chat, answered, {"prompt": "The"}])) + "\n\n")
    examples = read_examples(file)
    assert [each.document is not None for each in examples] == [False, True, False]
    assert examples[0].prompt == examples[1].prompt == chat
    found = compare_models(
        *(Compared(name, folders / "one") for name in "ab"), home=tmp_path, examples=examples
    )
    assert [row["parts_at"] for row in found["answers"]] == [None] * 3
    scores = found["scores"]
    assert scores["documents"] == 1 and scores["difference_value"] == 0.0
    model, _, tokens, _ = load_model_folder(folders / "one")
    ids, mask = tokens.encode_chat(answered)
    with torch.no_grad():
        logits = model.logits(model(torch.tensor(ids)[None]))[0].log_softmax(-1)
    bits = -sum(float(logits[n - 1, i]) for n, i in enumerate(ids) if mask[n]) / math.log(2)
    assert scores["first"] == pytest.approx(bits / len("Yes, it is."), rel=1e-3)
    rare = {"text": "One\u2028and\x85the same line"}
    alone = {"messages": [{"role": "assistant", "content": "Yes."}]}
    lines = [json.dumps(row, ensure_ascii=False) for row in (rare, alone)]
    file.write_text("\ufeff" + "\r\n".join(lines), "utf-8", newline="")
    first, second = read_examples(file)
    assert first.document is not None and first.document.text == rare["text"]
    assert second.prompt is None and second.document is not None
    (tmp_path / "lines.txt").write_text("One\n\nTwo\n")
    assert [each.prompt for each in read_examples(tmp_path / "lines.txt")] == ["One", "Two"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no prompts"),
        ('{"a": 1}', "jsonl:1 holds nothing"),
        ("\n{", "jsonl:2 is no JSON"),
    ],
)
def test_files_that_ask_nothing(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=reason):
        read_examples(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(tmp_path / "b.jsonl")


def test_the_command_prints_both(folders: Path, tmp_path: Path) -> None:
    names = [f"{folders / 'one'}:hf", str(folders / "other")]
    options = ["--answers", "1", "--tokens", "4", "--home", str(tmp_path)]
    app = build_app("diff")
    printed = CliRunner().invoke(app, ["diff", *names, *options])
    assert printed.exit_code == 0 and "answers are the same" in printed.output
    told = CliRunner().invoke(app, ["diff", *names, *options, "--json"])
    answers = json.loads(told.stdout)["answers"]
    tokens = Tokens.load(folders / "one/tokens")
    assert len(answers) == 1 and answers[0]["prompt"] in tokens.decode(
        tokens.encode_prompt(answers[0]["prompt"])
    )
    missing = CliRunner().invoke(app, ["diff", names[0], "nobody", *options])
    assert isinstance(missing.exception, SpecError)
