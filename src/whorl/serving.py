"""One service from one model: what a person's word for it means, engine, token contract, HTTP.

Wiring, like `verbs.py`.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.core.errors import SpecError
from whorl.core.later import later, with_result
from whorl.core.records import MANIFEST, Record, RecordStore
from whorl.core.variants import Variant, find_variant
from whorl.spec.resolved import ServeConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

    from whorl.codecs.contract import Tokens
    from whorl.core.ports import Engine
    from whorl.stages.improve.registry import Version
    from whorl.stages.serve.card import ModelCard
    from whorl.stages.serve.served import Served
    from whorl.stages.serve.swap import NextModel

__all__ = [
    "Address",
    "Servable",
    "Service",
    "find_model",
    "newer_models",
    "open_model_app",
    "serve_app",
]

Service = tuple["FastAPI", Callable[[], None]]  # the application, and what closes its engine
STAGES = ("compress", "train", "import")  # whose records hold model folders
MAX_SHOWN = 5  # model folders named in an error
MAX_CHARS = 80  # of what was asked for, in an error


@dataclass(frozen=True)
class Servable:
    """A model folder, in which form it is served, and what clients call it."""

    model_id: str
    folder: Path
    variant: Variant | None  # None: see `whorl.engines.open.open_engine`
    scores: Sequence[Mapping[str, Any]] = ()
    version: int = 0  # of the registry; 0: of none
    why: str = ""  # this variant, where targets chose it


def find_model(what: str, config: ServeConfig, home: Path) -> Servable:
    """The model that a person means, a name of `whorl models` or else a folder, in the variant that
    the config names or its targets choose.

    A word without a slash is a name first, so that a folder of the same name hides no model;
    `./word` is always the folder. Raises SpecError if nothing of it can be served, RecordError if
    it is damaged.
    """
    from whorl.stages.improve.registry import list_versions

    name, _, number = what.partition("@")
    versions = [] if _is_path(what) else list_versions(home, name)
    if versions:
        return _registered(_of_number(versions, what, number), config, home)
    folder = os.path.expanduser(what)
    if os.path.isfile(folder):
        raise SpecError(
            f"{what} is a file",
            expected="a recipe (x.yaml) or a model folder",
            do=f"whorl import {what}" if what.endswith(".gguf") else None,
        )
    if not os.path.isdir(folder):
        raise _no_model(what, home)
    return _in_folder(Path(folder), what, config, home)


def _is_path(what: str) -> bool:
    return os.sep in what or what in (os.curdir, os.pardir)


def _of_number(versions: Sequence[Version], what: str, number: str) -> Version:
    """The newest, or the one that is named by its number: "3", "v3", "0003"."""
    digits = number.removeprefix("v").lstrip("0")
    named = [version for version in versions if number == "" or digits == str(version.version)]
    if not named or what.endswith("@"):
        known = ", ".join(f"{version.name}@{version.version}" for version in versions[-20:])
        do = "name one of these; `whorl models` lists all"
        raise SpecError(f"there is no model {what[:MAX_CHARS]}", found=known, do=do)
    return named[-1]


def _registered(version: Version, config: ServeConfig, home: Path) -> Servable:
    there: dict[Variant, Path] = {}
    for stage in STAGES:
        if stage in version.lineage:
            records = RecordStore(home, version.name).folder(stage)
            there |= _of_record(records / version.lineage[stage])
    scores = [score.model_dump() for score in version.scores if score.kind == "model"]
    chosen, folder, why = _chosen(there, config)
    return Servable(version.name, folder, chosen, scores, version.version, why)


def _in_folder(folder: Path, what: str, config: ServeConfig, home: Path) -> Servable:
    """A model folder, or the record that holds some."""
    from whorl.engines.open import forms_of
    from whorl.model.folder import CARD, peek_card

    if (folder / CARD).is_file():
        card = peek_card(folder)  # the engine verifies every file
        model_id = _model_id(folder, card.variant)
        asked = config.variant
        chosen = None if asked is None else find_variant(asked, forms_of(card))
        return Servable(model_id, folder, chosen)
    if (folder / MANIFEST).is_file() and (there := _of_record(folder.resolve())):
        chosen, place, why = _chosen(there, config)
        return Servable(_model_id(place, peek_card(place).variant), place, chosen, why=why)
    below = [str(path.parent) for path in _cards_below(folder, CARD)]
    is_foreign = (folder / "config.json").is_file()
    if not (below or is_foreign or _is_path(what)):
        raise _no_model(what, home)
    raise SpecError(
        f"{what[:MAX_CHARS]} is not a model folder",
        found=f"config.json without {CARD}: not written by whorl" if is_foreign else f"no {CARD}",
        expected="a folder written by whorl train or whorl compress",
        do=f"whorl import {what[:MAX_CHARS]}, then serve its name"
        if is_foreign
        else f"name one of those below it: {', '.join(below)}"
        if below
        else None,
    )


def _of_record(folder: Path) -> dict[Variant, Path]:
    from whorl.model.folder import model_folders

    return model_folders(Record.load(folder))


def _chosen(there: Mapping[Variant, Path], config: ServeConfig) -> tuple[Variant | None, Path, str]:
    """(variant, its folder, why). Without a word for variant or engine, a Hugging Face folder is
    served in the fastest form: None."""
    from whorl.engines.open import AUTO, SAFETENSORS
    from whorl.wiring.choice import choose_variant

    best = choose_variant(there, config)
    says_nothing = config.variant is None and config.engine == AUTO
    is_any = says_nothing and best.variant.format == SAFETENSORS
    return None if is_any else best.variant, best.folder, best.why


def _model_id(folder: Path, variant: Variant) -> str:
    """The recipe's name where the folder lies in a record, else the folder's own.

    A name that says nothing of this model ("model", "openvino-int8") gives way to the one above.
    """
    place = folder.resolve()
    record = place.parent
    if (record / MANIFEST).is_file() and record.parent.name in STAGES:
        return record.parent.parent.name
    says_nothing = {"model", "", variant.slug, variant.format, variant.weights}
    names = [path.name for path in (place, *place.parents) if path.name not in says_nothing]
    name = next(iter(names), "whorl")
    return "".join(char if char.isprintable() else "_" for char in name)


def _cards_below(folder: Path, card: str) -> Iterator[Path]:
    """Model folders that are not far below, such as a recipe's in a home."""
    found = (path for depth in (1, 2, 3) for path in sorted(folder.glob(f"{'*/' * depth}{card}")))
    yield from (path for _, path in zip(range(MAX_SHOWN), found, strict=False))


def _no_model(what: str, home: Path) -> SpecError:
    """Neither a registered model nor a folder: with what was probably meant."""
    from whorl.stages.improve.registry import list_versions

    name = what.partition("@")[0]
    known = [f"{version.name}@{version.version}" for version in list_versions(home)]
    names = [*known, *(each.partition("@")[0] for each in known)]
    near = difflib.get_close_matches(what[:MAX_CHARS], names, n=1, cutoff=0.7)
    do = "name a recipe (x.yaml), a model of `whorl models`, or a model folder"
    if near:
        do = f"did you mean {near[0]}? `whorl models` lists all"
    elif not _is_path(what) and len(name) < MAX_CHARS:
        trained = list(RecordStore(home, name).all("train"))
        if os.path.isfile(f"{name}.yaml"):
            do = f"whorl serve {name}.yaml"
        elif trained:
            do = f"whorl serve {trained[-1] / 'model'}: it is trained, `whorl up` registers it"
    return SpecError(
        f"there is no model {what[:MAX_CHARS]} in {home}, nor such a folder with one",
        found=", ".join(known[-20:]) or "no models",
        do=do,
    )


# ------------------------------------------------------------------ its service


@dataclass(frozen=True)
class Address:
    """Where a service is: for a person, and for a program."""

    base_url: str
    page_url: str = field(repr=False)
    api_key: str | None = field(repr=False)  # None: it was given, and is not printed
    model_id: str
    prompt: str | None  # to try it with; None: it takes no text
    promise: str = ""

    @property
    def curl(self) -> str:
        """A command that asks it something; with a given key it takes that of WHORL_API_KEY."""
        words = [f"{self.base_url}/v1/models"]
        if self.prompt is not None:
            body = {"model": self.model_id, "prompt": self.prompt, "max_tokens": 32}
            words = [f"{self.base_url}/v1/completions", "-d", json.dumps(body, ensure_ascii=False)]
        key = '"$WHORL_API_KEY"' if self.api_key is None else shlex.quote(self.api_key)
        return f"curl --oauth2-bearer {key} {shlex.join(words)}"


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
) -> Service:
    """(FastAPI service of a model, function that closes the engine it has then).

    home: where its exports are kept, and what was measured of it. is_open: to others than the one
    who starts it: it takes the home's keys, and logs its answers and people's opinions of them.
    """
    engine, tokens, card, plays = _open(model, config, home, example_prompt)
    try:
        from whorl.stages.serve.app import create_app
        from whorl.stages.serve.desk import Desk

        desk = Desk.of(config, home if is_open else None)
        app = create_app(engine, tokens, card, config, api_key, desk, plays)
    except BaseException:
        engine.close()
        raise
    return app, lambda: app.state.gateway.served.close()


def newer_models(what: str, config: ServeConfig, home: Path, now: Servable) -> NextModel:
    """What looks, whenever it is called, whether the name means another version by now.

    One that cannot be opened is told once (its error is raised), and not tried again.
    """
    from whorl.stages.improve.registry import list_versions
    from whorl.stages.serve.served import Served

    seen = now.version

    def look() -> Served | None:
        nonlocal seen
        newest = max((each.version for each in list_versions(home, what)), default=seen)
        if newest == seen:
            return None
        seen = newest
        found = find_model(f"{what}@{newest}", config, home)
        engine, tokens, card, plays = _open(found, config, home, measures=False)
        return Served(engine, tokens, card, engine.close, plays)

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
        from whorl.stages.serve.server import serve as run_server

        gateway, access = app.state.gateway, app.state.access
        prompt = (gateway.card.example_prompt or "The ") if gateway.has_text else None

        def started(base_url: str) -> None:
            page_url, name = access.page_address(base_url), gateway.card.name
            printed = access.api_key if api_key is None else None  # None too with keys of the home
            promise = str(gateway.card.promise or "")
            on_start(Address(base_url, page_url, printed, name, prompt, promise))

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
