"""A miniature of image recognition: learned from a folder of files, the same by both engines.

Axes: N documents, T tokens of a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="needs the extra train")

from tests.fields.test_images import folders as save_shapes
from whorl.codecs.contract import Tokens
from whorl.codecs.parts import token_space
from whorl.core.ports import Choice, Document, HeldoutDocument, Source
from whorl.engines.open import open_engine
from whorl.engines.openvino_export import export_openvino
from whorl.engines.parity import compare_greedy
from whorl.engines.setup import EngineSetup
from whorl.fields.base import find_field
from whorl.model.hf import save_model_folder
from whorl.model.transformer import Transformer
from whorl.testing.models import tiny_model, tiny_shape

STEPS, BATCH = 120, 24


def learn(model: Transformer, tokens: Tokens, documents: Sequence[Document]) -> None:
    """AdamW on whole documents, which are all of one length; what is not trained is context."""
    encoded = [tokens.encode_document(document) for document in documents]
    width = min(len(ids) for ids, _ in encoded)
    ids_NT = torch.tensor([ids[:width] for ids, _ in encoded])
    mask_NT = torch.tensor([mask[:width] for _, mask in encoded])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        some = torch.randint(len(ids_NT), (BATCH,), generator=generator)
        ids, mask = ids_NT[some], mask_NT[some][:, 1:]
        targets = torch.where(mask, ids[:, 1:], -1)
        loss = model.nats(ids[:, :-1], targets) / mask.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def test_shapes_are_told_apart_by_both_engines(tmp_path: Path) -> None:
    field = find_field("images")
    options = {"size": "24", "patch": "4", "copies": "3", "colour": "grey", "book": "64"}
    save_shapes(tmp_path / "shapes", 100)
    source = Source("shapes", "images", folder=str(tmp_path), options=options)
    documents = [
        document
        for item in field.items(source)
        for document in field.read(source, item, lambda reason: None)
    ]
    train = [document for document in documents if document.split == "train"]
    held = [document for document in documents if document.split == "heldout"]
    asked = {"vocab_size": 80, "seed": 0, "options": options}
    tokens = Tokens.build(field.fit_codecs(train, asked), 96)
    model = tiny_model(tiny_shape(vocab_size=96))
    learn(model, tokens, train)
    save_model_folder(
        tmp_path / "hf", model.state_dict(), model.shape, tokens, {"prepare": "0" * 32}
    )
    export_openvino(tmp_path / "hf", tmp_path / "f32")
    questions: list[Choice] = []
    for document in held:
        ids, mask = tokens.encode_document(document)
        known = HeldoutDocument(document.name, np.array(ids), np.array(mask), 0)
        question = field.task.question(known, token_space(tokens))
        assert question is not None
        questions.append(question)
    engines = {
        "torch": open_engine(tmp_path / "hf", name="torch", setup=EngineSetup(8)),
        "openvino": open_engine(tmp_path / "f32", name="openvino", setup=EngineSetup(8)),
    }
    chosen = {}
    for name, engine in engines.items():
        nats = [engine.score(q.candidates, q.prompt_ids) for q in questions]
        chosen[name] = [int(np.argmax([float(each[0]) for each in found])) for found in nats]
    right = np.array([question.right for question in questions])
    accuracy = float((np.array(chosen["torch"]) == right).mean())
    assert len(held) > 30 and accuracy > 0.9, accuracy
    assert chosen["openvino"] == chosen["torch"]
    prompts = [question.prompt_ids for question in questions[:12]]
    assert compare_greedy(engines["torch"], engines["openvino"], prompts, max_tokens=4).passed
    for engine in engines.values():
        engine.close()
