"""/v1/models: what is served, in OpenAI's and Anthropic's form, with what whorl knows of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.page import page_facts
from whorl.stages.serve.served import Served

__all__ = ["add_models"]


def add_models(app: FastAPI, gateway: Gateway) -> None:
    """The list, and each by its id."""

    @app.get("/v1/models")
    async def models() -> Response:
        most = gateway.config.max_tokens
        found = [_model(each, most) for each in gateway.models]
        pages = {"has_more": False, "first_id": found[0]["id"], "last_id": found[-1]["id"]}
        return JSONResponse({"object": "list", "data": found, **pages})

    @app.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> Response:
        return JSONResponse(_model(gateway.of_name(model_id), gateway.config.max_tokens))


def _model(served: Served, most_tokens: int) -> dict[str, Any]:
    card, contract = served.card, served.tokens.contract
    dialogue = served.prompts.dialogue
    return {
        "id": card.name,
        "object": "model",
        "type": "model",  # Anthropic's name, as the next two
        "display_name": card.name,
        "created_at": datetime.fromtimestamp(card.created, UTC).isoformat(),
        "created": card.created,
        "owned_by": "whorl",
        "context_length": card.context_tokens,
        "max_model_len": card.context_tokens,  # vLLM's name
        "max_tokens": most_tokens,
        "contract_digest": contract.digest,
        "vocab_size": contract.vocab_size,
        "codecs": [
            {
                **entry.model_dump(exclude={"files", "digest"}),
                "media_type": served.tokens.codecs[entry.name].media_type,
            }
            for entry in contract.codecs
        ],
        "chats": contract.chat_template is not None,
        "tool_calls": None if dialogue.calls is None else dialogue.calls.name,
        "reasoning": "think" if dialogue.thinks else None,
        "engine": served.engine.name,
        "engine_unable": sorted(served.engine.unable),
        "variant": card.variant,
        "lineage": card.lineage,
        "quality": [figure.model_dump() for figure in card.quality],
        "example_prompt": card.example_prompt,
        "sampling": card.sampling.model_dump(),
        **page_facts(served.tokens, card),
        "promise": None if card.promise is None else card.promise.model_dump(),
    }
