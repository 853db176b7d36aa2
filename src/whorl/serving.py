"""One service from one model folder: engine, token contract, HTTP. Wiring, like `verbs.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.core.metrics import find_metric
from whorl.core.variants import Variant
from whorl.spec.resolved import ServeConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Service", "open_model_app", "serve_app"]

Service = tuple["FastAPI", Callable[[], None]]  # the application, and what closes its engine


def open_model_app(
    folder: Path,
    variant: Variant | None,
    name: str,
    config: ServeConfig,
    quality: Sequence[Mapping[str, Any]] = (),
    api_key: str | None = None,
    example_prompt: str = "",
) -> Service:
    """(FastAPI service of a model folder, function that closes its engine). variant None: see
    `whorl.engines.open.open_engine`."""
    from whorl.codecs.contract import Tokens
    from whorl.engines.open import open_engine
    from whorl.model.folder import TOKENS, read_card
    from whorl.stages.serve.app import create_app
    from whorl.stages.serve.card import ModelCard, QualityFigure

    card = read_card(folder)
    shown_variant = variant or card.variant
    figures = tuple(
        QualityFigure(
            **{key: score[key] for key in ("name", "field", "metric", "value", "low", "high")},
            shown=find_metric(score["metric"]).shown(score["value"]),
        )
        for score in quality
        if score.get("variant") == asdict(shown_variant)
    )
    shown = ModelCard(
        name=name,
        contract_digest=card.contract_digest,
        context_tokens=card.shape.max_seq_len,
        variant=str(shown_variant),
        created=int((folder / "whorl.json").stat().st_mtime),
        lineage={key: str(value) for key, value in card.lineage.items()},
        quality=figures,
        example_prompt=example_prompt,
    )
    engine = open_engine(folder, variant, name=config.engine, max_running=config.max_running)
    try:
        app = create_app(engine, Tokens.load(folder / TOKENS), shown, config, api_key)
    except BaseException:
        engine.close()
        raise
    return app, engine.close


def serve_app(
    app: FastAPI,
    close: Callable[[], None],
    config: ServeConfig,
    on_start: Callable[[str, str], None],
) -> None:
    """Run a service of `open_model_app` until it is told to stop."""
    from whorl.stages.serve.server import serve as run_server

    access = app.state.access
    try:
        run_server(
            app, config, lambda url: on_start(f"{url}/?token={access.page_token}", access.api_key)
        )
    finally:
        close()
