"""A model that is being served: what an answer needs of it, from its beginning to its end.

An answer takes one of these when it begins and never looks at another, so that a model that takes
its place meanwhile changes nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from whorl.codecs.contract import Tokens
from whorl.core.environments import PlayTask
from whorl.core.errors import RecordError
from whorl.core.ports import Engine
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.health import Health
from whorl.stages.serve.prompts import PromptReader

__all__ = ["Served"]


class Served:
    """Engine, tokens and card of one model, and how many answers are at work with it.

    Raises RecordError if they are not of one token contract.
    """

    def __init__(
        self,
        engine: Engine,
        tokens: Tokens,
        card: ModelCard,
        close: Callable[[], None] = lambda: None,
        plays: Mapping[str, PlayTask] | None = None,
    ) -> None:
        """plays: field of the card -> what opens the environments that it names."""
        _check_contract(engine, tokens, card)
        self.plays = plays or {}
        self.engine, self.tokens, self.card, self.close = engine, tokens, card, close
        self.prompts = PromptReader(tokens, card.context_tokens)
        self.stop_ids = tuple(sorted(set(tokens.contract.stop_ids)))
        self.first_id = next(iter(tokens.contract.start_ids), 0)  # what a probe goes on from
        self.health = Health(engine, self.first_id)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def take(self) -> None:
        """One more answer is at work with it."""
        self._users += 1
        self._unused.clear()

    def give_back(self) -> None:
        self._users -= 1
        if not self._users:
            self._unused.set()

    async def unused(self) -> None:
        """Returns when no answer is at work with it."""
        await self._unused.wait()


def _check_contract(engine: Engine, tokens: Tokens, card: ModelCard) -> None:
    digest = tokens.contract.digest
    for name, found in (
        (f"engine {engine.name}", engine.contract_digest),
        (f"model {card.name}", card.contract_digest),
    ):
        if found != digest:
            raise RecordError(
                f"{name} was made for another token contract",
                found=f"{found[:16]}…",
                expected=f"{digest[:16]}…, that of the loaded tokens",
                do="serve a model folder as it was written, with its own tokens",
            )
