"""Blocks of GenAI's cache of keys and values: how many requests take, and how many there are."""

from __future__ import annotations

from whorl.engines.setup import EngineSetup
from whorl.model.folder import FolderCard

__all__ = ["block_bytes", "blocks_of", "num_cache_blocks"]

BLOCK_TOKENS = 32  # tokens of one block on a CPU


def num_cache_blocks(card: FolderCard, setup: EngineSetup) -> int:
    """Blocks for every running request's whole context, within the setup's bytes; for one
    request's, always."""
    one_request = blocks_of(card.shape.max_seq_len)
    room = setup.cache_bytes // block_bytes(card)
    return max(one_request, min(setup.max_running * one_request, room))


def block_bytes(card: FolderCard) -> int:
    """Bytes of keys and values of a block, in the folder's format of the cache."""
    return round(card.cache_bytes_per_token) * BLOCK_TOKENS


def blocks_of(num_tokens: int) -> int:
    """Blocks that a request of this length can come to hold, and one to spare."""
    return -(-num_tokens // BLOCK_TOKENS) + 1
