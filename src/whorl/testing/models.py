"""Tiny models with structure: random weights have near ties, a few steps of training do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from whorl.arch.dense import dense_shape
from whorl.arch.shape import ModelShape
from whorl.codecs.contract import Tokens
from whorl.model.hf import save_model_folder
from whorl.model.transformer import Transformer
from whorl.testing.corpus import tiny_texts, tiny_tokens

__all__ = ["tiny_model", "tiny_model_folder", "tiny_shape", "train_briefly"]


def tiny_shape(**changes: Any) -> ModelShape:
    """Two layers, grouped queries, 512 ids; a Qwen3 with tied embeddings unless told otherwise."""
    values: dict[str, Any] = {
        "layers": 2,
        "width": 64,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "ffn_width": 128,
        "vocab_size": 512,
        "max_seq_len": 256,
    }
    return dense_shape(**(values | changes))


def tiny_model(shape: ModelShape, seed: int = 0) -> Transformer:
    """A random model; norm weights too differ from one."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.08 * noise if parameter.dim() > 1 else 1 + 0.2 * noise)
    return model


def train_briefly(
    model: Transformer, tokens: Tokens, steps: int = 60, texts: Sequence[str] | None = None
) -> float:
    """AdamW on the tiny corpus, one stream of ids in rows of 64; the last loss in nats."""
    texts = tiny_texts(60) if texts is None else texts
    stream = torch.tensor([i for text in texts for i in tokens.encode_prompt(text)])
    generator = torch.Generator().manual_seed(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small that threads would only wait for each other
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    loss = torch.zeros(())
    for _ in range(steps):
        starts = torch.randint(len(stream) - 65, (8,), generator=generator)
        rows = torch.stack([stream[start : start + 65] for start in starts.tolist()])
        logits = model.logits(model(rows[:, :-1]))
        loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.set_num_threads(threads)
    return float(loss.detach())


def tiny_model_folder(path: Path, *, steps: int = 60, **changes: Any) -> Path:
    """A briefly trained tiny model saved as a model folder."""
    shape = tiny_shape(**changes)
    tokens = tiny_tokens(shape.vocab_size)
    model = tiny_model(shape)
    if steps:
        train_briefly(model, tokens, steps)
    save_model_folder(path, model.state_dict(), shape, tokens, {"prepare": "0" * 32})
    return path
