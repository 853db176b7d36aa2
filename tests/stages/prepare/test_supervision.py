"""What is trained: chats by the contract's one function, and data without supervision refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tests.stages.prepare.support import FIELDS, prepare, story
from tests.stages.prepare.test_run import check_sums
from whorl.codecs.contract import Tokens
from whorl.codecs.text import NAMES, train_text_codec
from whorl.core.errors import DataError
from whorl.core.heldout import HeldoutDocuments
from whorl.core.ports import Codec, Document, Part, Score, Source, Task
from whorl.core.rows import RowSet
from whorl.core.tasks import LikelihoodTask
from whorl.fields.chat import chat_texts


def chat(number: int, answers: bool = True, prompt_sentences: int = 1) -> dict[str, Any]:
    turns = [{"role": "user", "content": story(number, prompt_sentences)}]
    if answers:
        turns += [{"role": "assistant", "content": story(number + 1000, 1)}]
        turns += [{"role": "user", "content": "More?"}, {"role": "assistant", "content": "No."}]
    return {"messages": turns}


@dataclass(frozen=True)
class ChatField:
    """Chats of which every `unanswered`-th has no answer."""

    count: int = 30
    unanswered: int = 0
    prompt_sentences: int = 1
    as_text: bool = False  # the prompt as context, the answer as what is trained
    name: str = "chat"
    task: Task = field(default_factory=LikelihoodTask)
    logic_version: int = 1
    options: Mapping[str, str] = field(default_factory=dict)

    def items(self, source: Source) -> list[Any]:
        return list(range(self.count))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        answers = not self.unanswered or item % self.unanswered > 0
        value = chat(item, answers, self.prompt_sentences)
        parts: tuple[Part, ...] = (Part("chat", value),)
        if self.as_text:
            asked, answered = (message["content"] for message in value["messages"][:2])
            parts = (Part("text", asked, trained=False), Part("text", answered))
        yield Document(f"chat {item}", parts, "heldout" if item % 5 == 1 else "train")

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        texts = [text for document in documents for text in chat_texts(document)]
        return {"text": train_text_codec(texts, options["vocab_size"])}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        return []


def prepared(tmp_path: Path, *sources: Source, **options: Any) -> Any:
    fields = {**FIELDS, "chat": ChatField(**options)}
    lines: list[str] = []
    found = prepare(tmp_path, *(sources or [Source("x", "chat")]), fields=fields, log=lines.append)
    return found, lines


def test_chats_are_what_transformers_makes_of_them(tmp_path: Path) -> None:
    record, _ = prepared(tmp_path)
    check_sums(record)
    tokens, documents = Tokens.load(record.folder("tokens")), HeldoutDocuments.open(record)
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(record.file("tokens/tokenizer.json")), **NAMES
    )
    for number, name in enumerate(documents.names):
        messages = chat(int(name.removeprefix("chat ")))["messages"]
        expected = theirs.apply_chat_template(
            messages,
            chat_template=tokens.contract.chat_template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert documents.ids(number).tolist() == expected["input_ids"]
        assert documents.mask(number).tolist() == list(map(bool, expected["assistant_masks"]))
        said = "".join(m["content"] for m in messages if m["role"] == "assistant")
        assert documents.num_bytes(number) == len(said.encode())
    assert len(documents) == 6


def test_documents_without_a_trained_token_are_counted(tmp_path: Path) -> None:
    record, _ = prepared(tmp_path, unanswered=4)
    assert record.metrics["dropped"] == {"no trained token": 8}
    check_sums(record)
    rows = RowSet.open(record)
    assert rows.read(np.arange(rows.num_rows)).loss_mask.any(axis=1).all()


def test_data_without_a_trained_token_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, unanswered=1)
    for said in ("chat 0: no trained token", "do: mark the parts", "the assistant's turns"):
        assert said in str(caught.value)


def test_a_source_without_a_trained_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(20):
        (tmp_path / "texts" / f"{number}.txt").write_text(story(number))
    sources = (Source(str(tmp_path / "texts"), "text"), Source("the chats", "chat"))
    with pytest.raises(DataError, match=r"source the chats has no trained token.*chat 0: no tr"):
        prepared(tmp_path / "home", *sources, unanswered=1)
    record, _ = prepared(tmp_path / "home", *sources, unanswered=4)
    assert all(source.trained_tokens for source in RowSet.open(record).index.sources)


def test_rows_of_a_long_prompt_are_left_out(tmp_path: Path) -> None:
    record, lines = prepared(tmp_path, prompt_sentences=30, as_text=True)
    check_sums(record)
    assert record.metrics["untrained_rows"] > record.metrics["train_rows"]
    assert any("rows without a trained token" in line for line in lines)
    rows = RowSet.open(record)
    assert rows.read(np.arange(rows.num_rows)).loss_mask.any(axis=1).all()


def test_chats_longer_than_a_row_say_what_row_would_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"chat 0: conversation longer.*train\.seq_len=\d+"):
        prepared(tmp_path, prompt_sentences=30)


def test_why_a_chat_is_refused_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"messages": [{"role": "robot", "content": "x"}]}
    answers = {3: wrong, 4: {"messages": "x"}}
    monkeypatch.setattr(
        "tests.stages.prepare.test_supervision.chat",
        lambda number, *_: answers.get(number) or {"messages": chat_of(number)},
    )
    monkeypatch.setattr(ChatField, "fit_codecs", lambda *_: {"text": train_text_codec(["a"], 256)})
    record, _ = prepared(tmp_path)
    assert record.metrics["dropped"] == {
        "the chat template refuses this chat": 1,
        "this is not a chat": 1,
    }


def chat_of(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "?"}, {"role": "assistant", "content": story(number, 1)}]
