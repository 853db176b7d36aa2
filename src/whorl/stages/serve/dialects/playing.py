"""/v1/play: the model acts in an environment that it was taught to act in, a few steps at a time.

Nothing is kept between requests: each says what was done so far, which is done again, since an
environment goes the same way for the same seed and actions. So whoever watches can stop, go back,
or act in the model's place. Only the model's own environments are opened, one step at a time.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import Request

from whorl.core.environments import (
    MAX_STEPS,
    Drawable,
    Environment,
    Observation,
    PlayTask,
    Reaction,
    Step,
)
from whorl.core.errors import DataError, MissingExtra, WhorlError
from whorl.core.ports import Codec, Part
from whorl.stages.serve.access import caller_of
from whorl.stages.serve.ask import PartBody
from whorl.stages.serve.card import TaskCard
from whorl.stages.serve.dialects.ranking import Questions, RankBody, Ranked, Vocabularies, rank_all
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.exchange import ClientGone, or_gone, read_parsed
from whorl.stages.serve.gateway import Gateway
from whorl.stages.serve.limits import max_time_of
from whorl.stages.serve.request import Body

__all__ = ["PLAY", "PlayBody", "add_playing"]

PLAY = "/v1/play"
ID = "play-"  # how the ids of answers begin
MOST_AT_ONCE = 4  # requests that hold an environment
MOST_STEPS = 32  # of one request
LEAST_S = 1e-3
SUBJECT = "observation"  # what a refusal of the model's question is about
Action = Annotated[str, Field(max_length=1_000)]
Result = TypeVar("Result")


class PlayBody(Body):
    """Which environment, what was done there so far, and how many steps the model is to go on."""

    stream: Literal[False] = Field(False, description="false: the answer comes whole")
    world: str | None = Field(
        None, description="one of the worlds that /v1/models tells; left out: the first of them"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="a whole number: where it begins")
    actions: Annotated[list[Action], Field(max_length=MAX_STEPS, fail_fast=True)] = Field(
        [], description="a list of what was done so far, the model's and others' actions"
    )
    steps: int = Field(
        1, ge=0, le=MOST_STEPS, description="a whole number: how far the model goes on from there"
    )


@dataclass
class _Play:
    """An episode as it goes on. All but `frame` runs on the environments' thread."""

    world: Environment
    seen: Observation
    done: list[Step]
    reaction: Reaction | None = None
    total: float = 0.0  # of its rewards

    @classmethod
    def begun(cls, world: Environment, seed: int) -> _Play:
        return cls(world, world.reset(seed), [])

    @property
    def has_ended(self) -> bool:
        return self.reaction is not None and self.reaction.has_ended

    def act(self, action: str) -> None:
        """Raises DataError on an action that it does not have, or after the end."""
        reaction = self.world.step(action)
        self.done.append((self.seen, action))
        self.seen, self.reaction = reaction.observation, reaction
        self.total += reaction.reward

    def frame(self, choices: list[dict[str, Any]], scene: Mapping[str, Any]) -> dict[str, Any]:
        """What is seen after the last action, and what the model had to choose from before it."""
        reaction = self.reaction
        return {
            "action": self.done[-1][1] if self.done else None,
            "choices": choices,
            "observation": dict(self.seen),
            "scene": dict(scene),
            "actions": [] if self.has_ended else list(self.world.actions),
            "reward": 0.0 if reaction is None else reaction.reward,
            "total": self.total,
            "has_ended": self.has_ended,
            "has_succeeded": reaction is not None and reaction.has_succeeded,
        }

    def scene(self) -> Mapping[str, Any]:
        return self.world.scene() if isinstance(self.world, Drawable) else {}


def add_playing(app: FastAPI, gateway: Gateway) -> None:
    """One route."""
    vocabularies, inside = Vocabularies(), [0]

    @app.post(PLAY, summary="The model acts in an environment of its own, step by step")
    async def play(request: Request) -> Response:
        body = await read_parsed(gateway, request, PlayBody)
        max_time = max_time_of(request.headers.get("x-request-timeout"))
        gateway.check_model(body.model, caller_of(request))
        if gateway.stopping:
            raise ApiError(503, "the server is stopping", code="stopping")
        if inside[0] >= MOST_AT_ONCE:
            full = f"{MOST_AT_ONCE} environments are played already; try again in a moment"
            raise ApiError(429, full, code="server_full", headers={"Retry-After": "1"})
        inside[0] += 1
        try:
            told = await _Episode(gateway, vocabularies, body, request, max_time).play()
        finally:
            inside[0] -= 1
        return JSONResponse(told, headers={"X-Request-Id": told["id"].removeprefix(ID)})


class _Episode:
    """One request: an environment is opened, brought to where it was, played, and closed."""

    def __init__(
        self,
        gateway: Gateway,
        vocabularies: Vocabularies,
        body: PlayBody,
        request: Request,
        max_time: float | None,
    ) -> None:
        """Raises ApiError 400 if the model was not taught to act there."""
        self.gateway, self.vocabularies, self.body = gateway, vocabularies, body
        self.request, self.served = request, gateway.of_name(body.model)
        most_s = min(max_time or gateway.config.max_time, gateway.config.max_time)
        self.ends_s = time.monotonic() + most_s
        self.is_over = threading.Event()
        self.card, self.task, self.name = self._found()

    @property
    def left_s(self) -> float:
        return max(self.ends_s - time.monotonic(), LEAST_S)

    async def play(self) -> dict[str, Any]:
        """Raises ApiError, ClientGone."""
        opened: list[Environment] = []
        try:
            begun = await self._aside(lambda: self._begin(opened))
            frames, fault, usage = await self._go_on(begun)
        finally:
            self.is_over.set()
            with suppress(RuntimeError):  # the thread has ended with the server
                self.gateway.playing_thread.submit(_close, opened)  # after what still runs there
        return {
            "id": f"{ID}{uuid.uuid4().hex}",
            "object": "play",
            "model": self.body.model,
            "world": self.name,
            "seed": self.body.seed,
            "num_steps": len(begun.done),
            "most_steps": self.task.max_steps,
            "frames": frames,
            "fault": fault,
            "usage": usage,
        }

    def _found(self) -> tuple[TaskCard, PlayTask, str]:
        """What the model was taught that has this environment."""
        plays, wanted = self.served.plays, self.body.world
        cards = [card for card in self.served.card.tasks if card.worlds and card.field in plays]
        names = [(card, world) for card in cards for world in card.worlds]
        if not names:
            raise invalid("model: it was not taught to act in an environment", "model")
        for card, world in names:
            if wanted in (None, world):
                return card, plays[card.field], world
        known = ", ".join(world for _, world in names)
        raise invalid(f"world: this model was taught to act in {known}", "world")

    def _begin(self, opened: list[Environment]) -> _Play:
        """On the environments' thread: opened, and everything done again. Raises ApiError."""
        try:
            found = self.task.open_world(f"{self.name}#{self.body.seed}")
        except MissingExtra as error:
            raise ApiError(501, str(error), code="no_environment") from error
        except WhorlError as error:
            raise ApiError(503, f"{self.name}: {error}", code="no_environment") from error
        if found is None:
            told = f"{self.name} cannot be opened by its field {self.card.field}"
            raise ApiError(503, told, code="no_environment")
        world, seed = found
        opened.append(world)
        begun = _Play.begun(world, seed)
        for place, action in enumerate(self.body.actions):
            if self.is_over.is_set():
                raise TimeoutError
            try:
                begun.act(action)
            except DataError as error:
                raise invalid(f"actions[{place}]: {error}", "actions") from None
        return begun

    def _known(self, begun: _Play) -> list[str]:
        """What may be done now and the model knows. Raises ApiError 400 if it knows nothing."""
        codec = self.served.tokens.codecs[self.card.answer]
        found = [action for action in begun.world.actions if _is_value(codec, action)]
        if not found:
            raise invalid(f"model: it knows no action of {self.name}", "model")
        return found

    async def _go_on(self, begun: _Play) -> tuple[list[dict[str, Any]], str | None, dict[str, int]]:
        """(what was there and what came, why the model could not go on, what it cost)."""
        frames = [begun.frame([], await self._aside(begun.scene))]
        usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
        for _ in range(self.body.steps):
            if begun.has_ended or len(begun.done) >= self.task.max_steps:
                break
            try:
                ranked = await self._ranked(begun, self._known(begun))
            except ApiError as error:
                if error.status == 400 and error.param == SUBJECT:  # it shows what no codec takes
                    return frames, error.message, usage
                raise
            for key in usage:
                usage[key] += ranked.usage[key]
            (found,) = ranked.answers(None)
            choices = [
                {"action": each["candidate"], "probability": each["probability"]} for each in found
            ]
            await self._aside(lambda best=choices[0]["action"]: begun.act(best))  # type: ignore[misc]
            frames.append(begun.frame(choices, await self._aside(begun.scene)))
        return frames, None, usage

    async def _ranked(self, begun: _Play, actions: list[str]) -> Ranked:
        names = self.served.tokens.of_field(self.card.field).names
        prompt = [_part(part, names) for part in self.task.ask(begun.done, begun.seen)]
        asked = RankBody(
            model=self.body.model, prompt=prompt, codec=self.card.answer, candidates=actions
        )
        gateway, vocabularies = self.gateway, self.vocabularies
        if gateway.of_name(self.body.model) is not self.served:
            raise ApiError(503, "the model was exchanged meanwhile; ask again", code="exchanged")
        questions = Questions(asked, [(SUBJECT, asked.question)])
        return await rank_all(
            *(gateway, vocabularies, self.body.model, lambda tokens: questions),
            *(self.request, self.left_s),
        )

    async def _aside(self, work: Callable[[], Result]) -> Result:
        """By the one thread of environments, which may print and share what they like."""
        loop = asyncio.get_running_loop()
        try:
            made = loop.run_in_executor(self.gateway.playing_thread, work)
        except RuntimeError:
            raise ApiError(503, "the server is stopping", code="stopping") from None
        made.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        try:
            async with asyncio.timeout(self.left_s):
                return await or_gone(self.request.receive, asyncio.shield(made))
        except TimeoutError:
            raise ApiError(504, "the deadline came first", code="deadline_exceeded") from None
        except ClientGone:
            self.is_over.set()
            raise


def _is_value(codec: Codec, value: str) -> bool:
    try:
        return bool(codec.encode(value))
    except DataError:
        return False


def _close(opened: list[Environment]) -> None:
    for world in opened:
        world.close()


def _part(part: Part, names: Mapping[str, str]) -> PartBody:
    """names: what the field calls a codec -> what the contract calls it, where these differ."""
    value = part.value
    text = value if isinstance(value, str) else json.dumps(dict(value))
    return PartBody(codec=names.get(part.codec, part.codec), text=text)
