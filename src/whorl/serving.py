"""One service from one model, or from two side by side: engine, token contract, HTTP.

Wiring, like `verbs.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.core.errors import SpecError
from whorl.core.later import later, with_result
from whorl.servable import Servable, find_model
from whorl.spec.resolved import ServeConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

    from whorl.codecs.contract import Tokens
    from whorl.core.ports import Engine
    from whorl.stages.serve.card import ModelCard
    from whorl.stages.serve.first_request import FirstRequest
    from whorl.stages.serve.served import Served
    from whorl.stages.serve.swap import NextModel

__all__ = ["Address", "Service", "newer_models", "open_model_app", "serve_app"]

Service = tuple["FastAPI", Callable[[], None]]  # the application, and what closes its engines


@dataclass(frozen=True)
class Address:
    """Where a service is: for a person, and for a program."""

    base_url: str
    page_url: str = field(repr=False)
    api_key: str | None = field(repr=False)  # None: it was given, and is not printed
    model_id: str
    first: FirstRequest  # to try it with
    promise: str = ""
    beside: str = ""  # what the model beside it is called

    @property
    def curl(self) -> str:
        """A command that asks it something; with a given key it takes that of WHORL_API_KEY."""
        key = '"$WHORL_API_KEY"' if self.api_key is None else shlex.quote(self.api_key)
        return self.first.command(self.base_url, key)


def _open(
    model: Servable,
    config: ServeConfig,
    home: Path,
    example_prompt: str = "",
    measures: bool = True,
) -> tuple[Engine, Tokens, ModelCard, dict[str, Any]]:
    """A model with its engine, ready to answer, and its `plays`; measures: see `open_promised`."""
    from whorl.engines.open import CACHE
    from whorl.wiring.promise import open_promised

    opening = later(open_promised, model.folder, model.variant, config, home / CACHE, measures)
    try:
        tokens, shown, plays = _card_of(model, home, example_prompt)
        from whorl.stages.serve import app, server  # noqa: F401  (while the engine opens the model)

        engine, promised = opening.result()
        promise = promised(tokens, shown)  # measured alone
    except BaseException:
        with_result(opening, lambda opened: opened[0].close())
        raise
    return engine, tokens, shown.model_copy(update={"promise": promise}), plays


def _card_of(
    model: Servable, home: Path, example_prompt: str
) -> tuple[Tokens, ModelCard, dict[str, Any]]:
    """A model's tokens, its card but for the promise, and its `plays`."""
    from whorl.codecs.contract import Tokens
    from whorl.model.folder import TOKENS, peek_card
    from whorl.stages.serve.card import ModelCard, VariantQuality
    from whorl.wiring.cards import figures_by_variant, plays_of, tasks_asked

    folder = model.folder
    card = peek_card(folder)  # the engine verifies every file
    tokens = Tokens.load(folder / TOKENS)
    tasks = tasks_asked(home, card.lineage, tokens)
    shown_variant = model.variant or card.variant
    measured = figures_by_variant(model.scores)
    figures = measured.pop(shown_variant, ())
    shown = ModelCard(
        name=model.model_id,
        contract_digest=card.contract_digest,
        context_tokens=card.shape.max_seq_len,
        variant=str(shown_variant),
        version=model.version,
        created=int((folder / "whorl.json").stat().st_mtime),
        lineage={key: str(value) for key, value in card.lineage.items()},
        quality=figures,
        variants=tuple(
            VariantQuality(variant=str(each), quality=found) for each, found in measured.items()
        ),
        example_prompt=example_prompt,
        tasks=tasks,
    )
    return tokens, shown, plays_of(tasks)


def open_model_app(
    model: Servable,
    config: ServeConfig,
    api_key: str | None = None,
    example_prompt: str = "",
    *,
    home: Path,
    is_open: bool = True,
    beside: Servable | None = None,
) -> Service:
    """(FastAPI service of a model, function that closes the engines it has then).

    home: where its exports are kept, and what was measured of it. is_open: to others than the one
    who starts it: it takes the home's keys, and logs its answers and people's opinions of them.
    beside: another model, which requests ask by its own name. Raises ResourceError where both may
    take more memory than there is.
    """
    if beside is not None:
        from whorl.wiring.promise import check_memory

        check_memory([each.named for each in (model, beside)], config)
    engine, tokens, card, plays = _open(model, config, home, example_prompt)
    others: list[Served] = []
    try:
        if beside is not None:
            others.append(_served(beside, config, home))
        from whorl.stages.serve.app import create_app
        from whorl.stages.serve.desk import Desk

        desk = Desk.of(config, home if is_open else None)
        app = create_app(engine, tokens, card, config, api_key, desk, plays, others)
    except BaseException:
        engine.close()
        for each in others:
            each.close()
        raise
    return app, app.state.gateway.close


def _served(model: Servable, config: ServeConfig, home: Path) -> Served:
    """Opened beside another: nothing is measured of it."""
    from whorl.stages.serve.served import Served

    engine, tokens, card, plays = _open(model, config, home, measures=False)
    return Served(engine, tokens, card, engine.close, plays)


def newer_models(what: str, config: ServeConfig, home: Path, now: Servable) -> NextModel:
    """What looks, whenever it is called, whether the name means another version by now.

    One that cannot be opened is told once (its error is raised), and not tried again.
    """
    from whorl.stages.improve.registry import list_versions

    seen = now.version

    def look() -> Served | None:
        nonlocal seen
        newest = max((each.version for each in list_versions(home, what)), default=seen)
        if newest == seen:
            return None
        seen = newest
        return _served(find_model(f"{what}@{newest}", config, home), config, home)

    return look


def serve_app(
    open_app: Callable[[str | None], Service],
    config: ServeConfig,
    on_start: Callable[[Address], None],
    api_key: str | None = None,
    home: Path | None = None,
    next_model: NextModel | None = None,
) -> None:
    """Run a service, which open_app opens with the API key, until it is told to stop.

    Keys, engine and address are checked before it is opened: it may take long. next_model: see
    `newer_models`.
    """
    from whorl.engines.open import find_engine
    from whorl.stages.serve.sockets import open_socket

    if config.engine != "auto":
        find_engine(config.engine)
    key = _key_for(config, api_key, home)
    with open_socket(config.host, config.port) as listener:
        app, close = open_app(key)
        from whorl.stages.serve.first_request import first_request
        from whorl.stages.serve.server import serve as run_server

        gateway, access = app.state.gateway, app.state.access
        first = first_request(gateway.served)
        beside = ", ".join(model.card.name for model in gateway.beside)

        def started(base_url: str) -> None:
            page_url, name = access.page_address(base_url), gateway.card.name
            printed = access.api_key if api_key is None else None  # None too with keys of the home
            promise = str(gateway.card.promise or "")
            on_start(Address(base_url, page_url, printed, name, first, promise, beside))

        try:
            run_server(app, config, started, listener, next_model)
        finally:
            close()


def _key_for(config: ServeConfig, api_key: str | None, home: Path | None) -> str | None:
    """The key given; without one a random one, or none where `whorl keys` made some.

    Raises SpecError where a server could be reached from other machines without anyone having been
    given a key.
    """
    from whorl.stages.serve.keys import keys_file, list_keys, usable_key
    from whorl.stages.serve.sockets import is_loopback

    if api_key is not None:
        return usable_key(api_key)
    if home is not None and any(key.revoked is None for key in list_keys(keys_file(home))):
        return None
    if not is_loopback(config.host):
        raise SpecError(
            f"other machines can reach serve.host {config.host[:80]}, and there is no key",
            expected="keys that were given to people, not one that is printed into a log",
            do="whorl keys add NAME, or set WHORL_API_KEY; or serve on 127.0.0.1",
        )
    return usable_key(None)
