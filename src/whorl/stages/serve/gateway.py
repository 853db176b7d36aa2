"""Between HTTP and the engine: admission, what is submitted, progress, and cancelling.

Everything here runs on the event loop; only the engine's events come from its thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from whorl.codecs.contract import Tokens, is_of_files
from whorl.core.errors import EngineError
from whorl.core.ports import Engine, GenerateRequest, TokenEvent
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.ask import Ask
from whorl.stages.serve.building import requests_of
from whorl.stages.serve.card import ModelCard
from whorl.stages.serve.desk import Desk, Visit
from whorl.stages.serve.errors import ApiError, invalid, is_grammar_fault
from whorl.stages.serve.generation import Events, Generation, Run
from whorl.stages.serve.inbox import Inbox
from whorl.stages.serve.limits import NOBODY, Caller, check_sizes
from whorl.stages.serve.served import Served
from whorl.stages.serve.stops import StopFinder

__all__ = ["Gateway"]

LOG = logging.getLogger(__name__)
PROBE_S = 10.0  # for the token of a probe
RANKING_THREADS = 2  # they wait for the engine, which computes one ranking at a time


class Gateway:
    """Answers with one model at a time, and with those beside it; an answer ends with the model it
    began with."""

    def __init__(
        self,
        served: Served,
        config: ServeConfig,
        desk: Desk,
        answering: Collection[str] = (),
        beside: Sequence[Served] = (),
    ) -> None:
        """answering: paths of requests that take a place. beside: models of other names, which
        requests may ask too; nothing takes their place."""
        self._answering = frozenset(answering)
        self.served, self.config, self.desk = served, config, desk
        self.beside = tuple(beside)
        self.stopping = self.stopped = False
        self.retiring: set[asyncio.Task[None]] = set()  # closing models that were replaced
        self.ranking_threads = ThreadPoolExecutor(RANKING_THREADS, "whorl-rank")
        self.playing_thread = ThreadPoolExecutor(1, "whorl-play")  # environments: see `playing`
        self._submitted: dict[str, Engine] = {}  # by request id
        self._inbox: Inbox[TokenEvent, Events, Visit] | None = None
        self._keep_to(served)

    @property
    def models(self) -> tuple[Served, ...]:
        """All that requests may name."""
        return (self.served, *self.beside)

    def close(self) -> None:
        """Every engine: nothing is asked any more."""
        for model in self.models:
            model.close()

    @property
    def engine(self) -> Engine:
        """Of the model that new requests get, as the next two."""
        return self.served.engine

    @property
    def tokens(self) -> Tokens:
        return self.served.tokens

    @property
    def card(self) -> ModelCard:
        return self.served.card

    @property
    def has_text(self) -> bool:
        """Whether the model reads text."""
        return self.served.prompts.has_text

    def take_over(self, new: Served) -> Served:
        """From now on requests get the new model; the old one, which may still be at work.

        A promise that is only predicted opens no more places than the model before had.
        """
        promise, most = new.card.promise, self.desk.admission.max_running
        if promise is not None and promise.basis == "predicted" and promise.users > most:
            promise = promise.for_fewer(most, self.config)
            new.card = new.card.model_copy(update={"promise": promise})
            if (limit := getattr(new.engine, "limit_running", None)) is not None:
                limit(most)
        old, self.served = self.served, new
        self._keep_to(new)
        self.desk.meters.swaps.inc()
        return old

    def _keep_to(self, served: Served) -> None:
        """As many places as the model's promise is for; where that is not max_running, it is told.

        The engine was opened, or limited, for so many.
        """
        promise, asked = served.card.promise, self.config.max_running
        places = asked if promise is None else promise.users
        self.desk.admission.max_running = places
        if places != asked:
            why = "so many are asked for by serve.users"
            if places < asked:
                why = "with more it would miss serve.ttft_p95 or serve.tokens_per_s_per_user"
            if places < asked and promise is not None and promise.basis == "predicted":
                why = "as with the model before: what this one can do is not measured"
            LOG.warning(
                "%s: %s requests run together, not serve.max_running %s: %s (%s)",
                *(served.card.name, places, asked, why, promise),
            )

    # ---------------------------------------------------------------- health

    @property
    def max_body_bytes(self) -> int:
        """Of a request in JSON, which may bring files to a model that sees or hears."""
        codecs = (codec for model in self.models for codec in model.tokens.codecs.values())
        takes_files = any(map(is_of_files, codecs))
        uploads = self.config.max_upload_bytes if takes_files else 0
        return max(self.config.max_body_bytes, uploads)

    @property
    def inside(self) -> int:
        """Answers admitted that the engine has not given back."""
        return self.desk.admission.inside

    @property
    def stall_s(self) -> float | None:
        """See Health; of the model that works longest."""
        found = [each for model in self.models if (each := model.health.stall_s) is not None]
        return max(found, default=None)

    async def fault(self) -> str | None:
        """None while tokens are made as they should be; else what is wrong."""
        if self.stopping:
            return "stopping"
        stall_s = self.config.stall_s
        limits = min(stall_s, PROBE_S), stall_s
        looks = (model.health.look(*limits) for model in self.models)
        return next(filter(None, await asyncio.gather(*looks)), None)

    @property
    def engine_failure(self) -> str | None:
        """Why the engine will never answer again; None: it may."""
        failures = (getattr(model.engine, "failure", None) for model in self.models)
        return next((str(failure) for failure in failures if failure is not None), None)

    def refuse(self) -> None:
        """Take no new requests."""
        self.stopping = True
        for model in self.models:
            model.health.close()

    def stop(self) -> None:
        """Take no new requests and end the running ones."""
        self.refuse()
        self.stopped = True
        self.ranking_threads.shutdown(wait=False)
        self.playing_thread.shutdown(wait=False)
        for request_id, engine in list(self._submitted.items()):
            engine.cancel(request_id)

    # ---------------------------------------------------------------- one request

    def check_room(self, caller: Caller, path: str) -> None:
        """Before a request is read, which costs more than to refuse it. Raises ApiError 429."""
        if path in self._answering:
            self.desk.admission.check_room(caller.who)

    async def start(
        self, ask: Ask, caller: Caller = NOBODY, max_time: float | None = None
    ) -> Generation:
        """Check, admit, encode and submit. Raises ApiError: 400, 403, 404, 429, 503 or 504.

        caller: whose request it is; prefixes are shared only between requests of one caller.
        max_time: seconds until its last token, if they are fewer than the server's.
        """
        self._check(ask, caller)
        visit = self.visit(ask.model, caller, len(ask.prompts) * ask.n, max_time)
        visit.asked = ask.prompts
        served = visit.served
        runs: list[Run] = []
        try:
            request_id = uuid.uuid4().hex
            limits = self.config.max_tokens, time.monotonic() + visit.left_s
            requests = await requests_of(served, ask, request_id, caller.cache_key, *limits)
            check_sizes(ask, requests[0][1].grammar, self.config)
            sizes = [(len(each.prompt_ids), each.max_tokens) for _, each in requests]
            visit.price(sizes, sum(length for length, _ in sizes[:: ask.n]))
            queue: Events = asyncio.Queue()
            for prompt, request in requests:
                decoder = served.prompts.decoder(prompt)
                voice = served.prompts.voice(prompt, request.prompt_ids)
                stops = StopFinder((*ask.stops, *served.tokens.contract.stop_strings))
                await self._submit(request, queue, visit, ask)
                form_name = ask.names.get("grammar", ask.subject)
                one = served.prompts.is_one_choice(prompt)
                runs.append(Run(served.engine, request, stops, decoder, voice, form_name, one))
        except BaseException:
            for run in runs:
                run.close()
            visit.give_up()
            raise
        return Generation(
            *(runs, queue, self.config.stall_s, visit),
            request_id=request_id,
            num_prompts=len(ask.prompts),
        )

    def visit(self, name: str, caller: Caller, num_answers: int, max_time: float | None) -> Visit:
        """Places for so many answers of the model of that name. Raises ApiError 404, 429 or 503.

        max_time: as of `start`.
        """
        if self.stopping:
            raise ApiError(503, "the server is stopping", code="stopping")
        most_s = min(max_time or self.config.max_time, self.config.max_time)
        return self.desk.visit(self.of_name(name), caller, num_answers, most_s)

    def of_name(self, name: str) -> Served:
        """Raises ApiError 404 if no model that is served has that name."""
        for model in self.models:
            if model.card.name == name:
                return model
        there = " and ".join(repr(model.card.name) for model in self.models)
        raise ApiError(
            404,
            f"there is no model {name[:80]!r} here; this server has {there}",
            code="model_not_found",
            param="model",
        )

    def check_model(self, name: str, caller: Caller = NOBODY) -> Served:
        """The model of that name. Raises ApiError 404 as `of_name`, 403 if the caller may not use
        it."""
        found = self.of_name(name)
        if caller.entry is not None and not caller.entry.may_use(name):
            raise ApiError(
                403,
                f"this key may use the models {', '.join(caller.entry.models)}, and no other",
                code="key_scope",
                param="model",
            )
        return found

    def _check(self, ask: Ask, caller: Caller) -> None:
        self.check_model(ask.model, caller)
        if ask.max_tokens is not None and ask.max_tokens > self.config.max_tokens:
            raise invalid(
                f"{ask.limit_name}: {str(ask.max_tokens)[:40]} is over this server's limit of "
                f"{self.config.max_tokens}",
                ask.limit_name,
            )
        answers, most = len(ask.prompts) * ask.n, self.desk.admission.places
        if answers > most:
            field = "n" if ask.n > 1 else ask.subject
            raise invalid(
                f"{field}: {answers} answers in one request are over this server's limit of {most}",
                field,
            )

    async def _submit(
        self, request: GenerateRequest, queue: Events, visit: Visit, ask: Ask
    ) -> None:
        inbox, engine = self._inbox_here(), visit.served.engine

        def on_event(event: TokenEvent) -> None:  # on the engine's thread
            if not inbox.loop.is_closed():
                inbox.put((event, queue, visit))

        self._submitted[request.request_id] = engine
        visit.submitted(request.request_id)
        try:
            if request.grammar is None:
                engine.submit(request, on_event)
            else:  # the engine reads it, which may take long
                reading = asyncio.ensure_future(asyncio.to_thread(engine.submit, request, on_event))
                await asyncio.shield(reading)
        except asyncio.CancelledError:  # the thread goes on
            reading.add_done_callback(partial(self._not_wanted, request, visit))
            raise
        except Exception as error:  # whatever it is, its place is free again
            del self._submitted[request.request_id]
            visit.refused(request.request_id)
            if not isinstance(error, EngineError):
                raise
            if is_grammar_fault(str(error)):
                name = ask.names.get("grammar", ask.subject)
                raise invalid(f"{name}: {error}", name, "invalid_grammar") from None
            visit.served.health.saw_failure(str(error))
            raise ApiError(503, f"the engine refused: {error}", code="engine_failed") from error

    def _not_wanted(
        self, request: GenerateRequest, visit: Visit, read: asyncio.Future[None]
    ) -> None:
        """Its client left while the engine read it."""
        if read.cancelled() or read.exception() is not None:
            self._submitted.pop(request.request_id, None)
            visit.refused(request.request_id)
            visit.give_up()
        else:
            visit.served.engine.cancel(request.request_id)

    def _inbox_here(self) -> Inbox[TokenEvent, Events, Visit]:
        """Of the loop that runs: a server has one, whoever asks its app without it may have more,
        one after the other."""
        loop = asyncio.get_running_loop()
        if self._inbox is None or self._inbox.loop is not loop:
            self._inbox = Inbox(loop, self._deliver)
        return self._inbox

    def _deliver(self, event: TokenEvent, queue: Events, visit: Visit) -> None:
        if event.finish_reason is not None:
            self._submitted.pop(event.request_id, None)
        visit.event(event)
        queue.put_nowait(event)
