"""Who may look at whom, and the attention that keeps to it.

`Segments` say where documents begin; `attention_of` makes of them what one forward needs, so that
every layer shares it. Rows up to MASK_TOKENS long get a mask, block by block where their documents
are short; longer ones are attended document by document, in memory linear in their length.

Axes: B rows, T tokens of a row, S tokens attended to (S = T without a cache), H query heads,
K key/value heads, N head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from whorl.arch.computable import MASK_TOKENS, block_tokens

__all__ = ["Attend", "Segments", "attention_of", "lengths_of", "row_block", "segments_of"]


@dataclass(frozen=True)
class Segments:
    """Where a token stands and what it may look at."""

    positions_BT: Tensor | None = None  # None: 0..T-1 in every row
    lengths: tuple[tuple[int, ...], ...] | None = None  # of each row's documents; None: one each
    mask_BHTS: Tensor | None = None  # True: may attend; for decoding, where S > T

    def to(self, device: torch.device) -> Segments:
        """With its tensors there."""
        positions, mask = self.positions_BT, self.mask_BHTS
        return Segments(
            None if positions is None else positions.to(device),
            self.lengths,
            None if mask is None else mask.to(device),
        )


class Attend(Protocol):
    """Scaled dot-product attention for one forward."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        """[B, H, T, N] of queries [B, H, T, N], keys and values [B, K, S, N].

        window: tokens a token may look back at, itself among them. scale: of the scores; None:
        1 / sqrt(N).
        """
        ...


def segments_of(starts_BT: Tensor) -> Segments:
    """Segments of rows in which a document begins wherever `starts` is True.

    A row's first token always begins one.
    """
    if not starts_BT[:, 1:].any():
        return Segments()
    rows, tokens = starts_BT.shape
    lengths, begins = [], torch.zeros(rows, tokens, dtype=torch.int64)
    for row, starts in enumerate(starts_BT):
        each = torch.tensor(lengths_of(starts))
        lengths.append(tuple(each.tolist()))
        begins[row] = torch.repeat_interleave(each.cumsum(0) - each, each)
    positions = torch.arange(tokens).expand(rows, tokens) - begins
    return Segments(positions.to(starts_BT.device), tuple(lengths))


def lengths_of(starts_T: Tensor) -> list[int]:
    """Of the documents of a row, in which one begins wherever `starts` is True, and at first."""
    places = [0, *(torch.nonzero(starts_T[1:]).flatten() + 1).tolist(), len(starts_T)]
    return [end - begin for begin, end in pairwise(places)]


def row_block(lengths: Sequence[int]) -> int:
    """Tokens of the blocks in which a row of documents so long is attended; 0: it needs no mask.

    Rows that are alike in this are best neighbours: they are computed together.
    """
    return block_tokens(sum(lengths), max(lengths)) if len(lengths) > 1 else 0


def attention_of(segments: Segments, tokens: int) -> Attend:
    """The attention of one forward over rows of so many tokens."""
    if segments.mask_BHTS is not None:
        return Masked(segments.mask_BHTS)
    if segments.lengths is None:
        return _causal
    if tokens <= MASK_TOKENS and segments.positions_BT is not None:
        return Short(segments.lengths, segments.positions_BT)
    return Documents(segments.lengths)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scale: float | None, **how: Any) -> Tensor:
    grouped = bool(query.shape[1] != key.shape[1])
    return functional.scaled_dot_product_attention(
        query, key, value, scale=scale, enable_gqa=grouped, **how
    )


def _causal(
    query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
) -> Tensor:
    """Every row is one document. With a window, in blocks as long as it: linear in T."""
    tokens = query.shape[2]
    if window is None or tokens <= window:
        return _sdpa(query, key, value, scale, is_causal=True)
    at, back = torch.arange(window), torch.arange(2 * window - 1)
    ahead = back[None, :] - at[:, None]  # of the block's oldest key, for each query
    mask = ((ahead >= 0) & (ahead < window)).to(query.device)
    parts = [_causal(query[:, :, :window], key[:, :, :window], value[:, :, :window], None, scale)]
    for begin in range(window, tokens, window):
        end = min(begin + window, tokens)
        seen = slice(begin - window + 1, end)
        allowed = mask[: end - begin, : end - seen.start]
        keys, values = key[:, :, seen], value[:, :, seen]
        parts.append(_sdpa(query[:, :, begin:end], keys, values, scale, attn_mask=allowed))
    return torch.cat(parts, dim=2)


@dataclass(frozen=True)
class Masked:
    """By a given mask. Keys are the last S tokens, queries the last T of them."""

    mask_BHTS: Tensor  # bool

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        mask = self.mask_BHTS
        if window is not None:
            tokens, all_tokens = mask.shape[-2:]
            at = torch.arange(all_tokens - tokens, all_tokens, device=mask.device)
            mask = mask & (at[:, None] - torch.arange(all_tokens, device=mask.device) < window)
        groups = int(query.shape[1] // key.shape[1])
        return functional.scaled_dot_product_attention(
            query, _repeated(key, groups), _repeated(value, groups), attn_mask=mask, scale=scale
        )


def _repeated(x_BKSN: Tensor, groups: int) -> Tensor:
    """Each key/value head for the query heads of its group: spelled out, as OpenVINO knows it."""
    if groups == 1:
        return x_BKSN
    rows, kv_heads, tokens, head_dim = x_BKSN.shape
    wide = x_BKSN[:, :, None].expand(rows, kv_heads, groups, tokens, head_dim)
    return wide.reshape(rows, int(kv_heads) * groups, tokens, head_dim)


@dataclass(frozen=True)
class Short:
    """Rows with several documents by one mask, added to the scores; the others without."""

    lengths: tuple[tuple[int, ...], ...]
    positions_BT: Tensor
    _masks: dict[tuple[int, int | None, torch.dtype], Tensor] = field(default_factory=dict)

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        out, tokens = [], query.shape[2]
        for block, rows in _runs(self.lengths, row_block):
            q, k, v = query[rows], key[rows], value[rows]
            if not block:
                out.append(_causal(q, k, v, window, scale))
                continue
            mask = self._mask(rows, block, window, query.dtype)
            if block < tokens:
                folded = _sdpa(
                    _blocks(q, block),
                    _blocks_and_before(k, block),
                    _blocks_and_before(v, block),
                    scale,
                    attn_mask=mask,
                )
                out.append(_unfolded(folded, len(q)))
            else:
                out.append(_sdpa(q, k, v, scale, attn_mask=mask))
        return out[0] if len(out) == 1 else torch.cat(out)

    def _mask(self, rows: slice, block: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """[rows, 1, T, T], or of each block [rows * T / block, 1, block, 2 * block] with the one
        before it; added, and made once for all layers alike."""
        known = (rows.start, window, dtype)
        if known not in self._masks:
            positions = self.positions_BT[rows]
            tokens = positions.shape[1]
            place = torch.arange(tokens, device=positions.device)
            begin = place - positions
            if block == tokens:
                queries, keys, begins = place[:, None], place[None], (begin, begin)
            else:
                place = torch.arange(block, device=positions.device)
                queries, keys = place[:, None] + block, torch.cat((place, place + block))[None]
                alone = begin.view(len(begin), -1, block)
                before = functional.pad(alone, (0, 0, 1, 0), value=-1)[:, :-1]  # -1: no document
                begins = alone.flatten(0, 1), torch.cat((before, alone), 2).flatten(0, 1)
            back = queries - keys  # how far a key lies behind a query
            allowed = (begins[0][:, :, None] == begins[1][:, None, :]) & (back >= 0)
            if window is not None:
                allowed &= back < window
            mask = torch.zeros(allowed.shape, dtype=dtype, device=positions.device)
            self._masks[known] = mask.masked_fill_(~allowed, float("-inf"))[:, None]
        return self._masks[known]


def _blocks(x_BHTN: Tensor, block: int) -> Tensor:
    """[B * T / block, H, block, N]; a view of what was computed as [B, T, H, N]."""
    rows, heads, tokens, head_dim = x_BHTN.shape
    return (
        x_BHTN.transpose(1, 2)
        .reshape(rows * (tokens // block), block, heads, head_dim)
        .transpose(1, 2)
    )


def _blocks_and_before(x_BKTN: Tensor, block: int) -> Tensor:
    """[B * T / block, K, 2 * block, N]: each block behind the one before it; zeros at first."""
    before = functional.pad(x_BKTN[:, :, :-block], (0, 0, block, 0))
    return torch.cat((_blocks(before, block), _blocks(x_BKTN, block)), dim=2)


def _unfolded(out: Tensor, rows: int) -> Tensor:
    """[rows, H, T, N] of blocks [rows * T / block, H, block, N]."""
    _, heads, _, head_dim = out.shape
    return out.transpose(1, 2).reshape(rows, -1, heads, head_dim).transpose(1, 2)


@dataclass(frozen=True)
class Documents:
    """Document by document: no mask, no pair computed that is not wanted."""

    lengths: tuple[tuple[int, ...], ...]

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        out = []
        for lengths, rows in _runs(self.lengths, lambda item: item):
            parts = [torch.split(x[rows], lengths, dim=2) for x in (query, key, value)]
            alone = [_causal(q, k, v, window, scale) for q, k, v in zip(*parts, strict=True)]
            out.append(torch.cat(alone, dim=2))
        return torch.cat(out)


def _runs(lengths: tuple[tuple[int, ...], ...], key: Any) -> Iterator[tuple[Any, slice]]:
    """Neighbouring rows alike by key, as slices."""
    begin = 0
    for kind, items in groupby(lengths, key):
        end = begin + len(list(items))
        yield kind, slice(begin, end)
        begin = end
