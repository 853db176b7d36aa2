"""The composition root: the only file that sees every stage and wires their records together.

A `Session` is one recipe in one home. Each stage is a method that returns its record, running the
stages before it first when their records do not exist yet.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whorl.core.context import NoProgress, StageContext
from whorl.core.errors import MissingExtra, SpecError
from whorl.core.home import home_folder
from whorl.core.ports import Engine, Field, Progress, QualityMeasure, Source
from whorl.core.records import Record, RecordStore
from whorl.core.variants import Variant
from whorl.servable import Servable
from whorl.serving import Address, Service, open_model_app, serve_app
from whorl.spec.load import LoadedRecipe, load_recipe, parse_recipe
from whorl.spec.resolved import ServeConfig
from whorl.wiring.data import digest_of, fields_of, sources_of, with_sources

if TYPE_CHECKING:
    from whorl.stages.improve.registry import Version
    from whorl.stages.improve.report import Report, ScoreRow
    from whorl.stages.plan.plan import Plan
    from whorl.wiring.bases import Base

__all__ = [
    "Session",
    "compress",
    "evaluate",
    "home_folder",
    "improve",
    "prepare",
    "serve",
    "train",
    "up",
]

RecipeLike = str | Path | Mapping[str, Any] | LoadedRecipe


@dataclass
class Session:
    """One recipe in one home; records are made once and then reused."""

    loaded: LoadedRecipe
    home: Path
    progress: Progress = field(default_factory=NoProgress)
    log: Callable[[str], None] = lambda line: None
    workers: int | None = None  # processes of prepare; None: one per core
    plans_alone: bool = False  # nothing is trained in this process: planning may leave its imports
    records: dict[str, Record] = field(default_factory=dict)  # stage -> its record, in order
    took_s: dict[str, float] = field(default_factory=dict)  # stage -> seconds, if it was run now

    @classmethod
    def open(
        cls,
        recipe: RecipeLike,
        *,
        overrides: Sequence[str] = (),
        home: Path | None = None,
        **options: Any,
    ) -> Session:
        """From a path to YAML, a dict, or a recipe loaded before. Raises SpecError."""
        if isinstance(recipe, LoadedRecipe):
            loaded = recipe
        elif isinstance(recipe, Mapping):
            loaded = parse_recipe(recipe, overrides=overrides)
        else:
            loaded = load_recipe(Path(recipe), overrides)
        return cls(loaded, home_folder(home), **options)

    @property
    def name(self) -> str:
        return self.loaded.recipe.name

    @property
    def context(self) -> StageContext:
        return StageContext(RecordStore(self.home, self.name), self.progress, self.log)

    # -------------------------------------------------------------- what stages need

    @functools.cached_property
    def fields(self) -> dict[str, Field]:
        return fields_of(self.loaded)

    @functools.cached_property
    def sources(self) -> tuple[Source, ...]:
        return sources_of(self.loaded, self.fields, self.home, self.log)

    @functools.cached_property
    def data_digest(self) -> str:
        return digest_of(self.fields, self.sources, self.home, self.log, self.workers)

    @functools.cached_property
    def base(self) -> Base | None:
        """The model that training starts from, looked over; None: from nothing."""
        if (asked := self.loaded.recipe.model.base) is None:
            return None
        from whorl.wiring.pruning import base_of

        return base_of(self, asked)

    @functools.cached_property
    def planned(self) -> Plan:
        """The plan as an object: decisions, predictions, reasons."""
        from whorl.stages.plan.plan import Plan

        return Plan.load(self.plan())

    def _stage(self, stage: str, make: Callable[[], Record]) -> Record:
        """Run one stage once in this session; notes how long it took if it was not there."""
        if stage not in self.records:
            known, start_s = set(self.context.store.all(stage)), time.monotonic()
            record = make()
            if record.path not in known:
                self.took_s[stage] = time.monotonic() - start_s
            self.records[stage] = record
        return self.records[stage]

    # -------------------------------------------------------------- the seven stages

    def plan(self) -> Record:
        """Resolve every auto; predict; refuse what cannot fit."""
        from whorl.wiring.plans import planned

        return self._stage("plan", partial(planned, self))

    def prepare(self) -> Record:
        """Token rows and the token contract."""

        def make() -> Record:
            from whorl.stages.plan.run import check_is_here
            from whorl.stages.plan.settings import given_prepare_config
            from whorl.stages.prepare.run import run

            check_is_here(recipe := self.loaded.recipe)
            given = None if self.base is None else self.base.tokens
            base_ids = None if given is None else given.contract.vocab_size
            config = given_prepare_config(recipe, base_ids) or self.planned.decisions.prepare
            data = self.fields, self.sources, self.data_digest
            return run(self.context, config, *data, self.workers, given)

        return self._stage("prepare", make)

    def train(self, to_compress: bool = False) -> Record:
        """The trained model folder; resumes where it was stopped."""

        def make() -> Record:
            MissingExtra.check("torch", "train", "training")
            if to_compress:  # nothing is trained that could not be
                MissingExtra.check("openvino_genai", "openvino", "compress")
            from whorl.stages.train.run import run

            decided, predicted = self.planned.decisions, self.planned.predicted()
            work = decided.shape, decided.train, self.records["prepare"], predicted
            train = self.loaded.recipe.train
            base, teacher = self.base.records(train) if self.base else (None, None)
            return run(self.context, *work, base=base, teacher=teacher)

        self.plan()
        self.prepare()
        return self._stage("train", make)

    def compress(self) -> Record:
        """Servable variants, each with its measured loss of quality. Raises GateError."""

        def make() -> Record:
            MissingExtra.check("openvino_genai", "openvino", "compress")
            from whorl.engines.openvino_export import EXPORTER
            from whorl.stages.compress.run import run
            from whorl.wiring.guesses import guessing_of
            from whorl.wiring.speed import measure_speed
            from whorl.wiring.texts import training_texts

            config, trained = self.planned.decisions.compress, self.records["train"]
            texts = functools.cache(partial(training_texts, self.records["prepare"]))
            work = (self.context, config, trained, EXPORTER, self._measure)
            guess = partial(guessing_of, self.records["prepare"], tuple(self.fields))
            times = self.planned.decisions.serve.has_targets
            return run(*work, texts=texts, speed=measure_speed, guess=guess, times=times)

        if not self._compresses:
            what = f"{self.name} is served as it was trained: there is nothing to compress"
            do = "name formats, such as compress.formats=[int8]"
            raise SpecError(what, found="compress.formats []", do=do)
        self.train(to_compress=True)
        return self._stage("compress", make)

    def evaluate(self) -> Record:
        """Scores through the serving engine, beside baselines."""

        def make() -> Record:
            from whorl.stages.evaluate.run import run
            from whorl.wiring.apart import alone
            from whorl.wiring.forgetting import probe_of

            config, serve = self.planned.decisions.evaluate, self.planned.decisions.serve
            models = dict([self.served(serve)]) | self.variants()
            prepared, trained = self.records["prepare"], self.records["train"]
            work = (self.context, config, with_sources(self.fields, self.sources), prepared, models)
            probe = None if self.base is None else probe_of(self.base, trained, self.loaded)
            beside = alone(self, self._evaluated)
            return run(*work, self._open_engine, trained, serve.engine, probe, beside)

        self._producer()
        return self._stage("evaluate", make)

    def _evaluated(self, loaded: LoadedRecipe) -> tuple[Record, Record]:
        """The records of evaluate and train of another recipe."""
        other = replace(self, loaded=loaded, records={}, took_s={})
        return other.evaluate(), other.records["train"]

    @property
    def _compresses(self) -> bool:
        return bool(self.loaded.recipe.compress.tried)

    def _producer(self) -> Record:
        """The record whose model folders are evaluated and served."""
        return self.compress() if self._compresses else self.train()

    def variants(self) -> dict[Variant, Path]:
        """What is there to serve: variant -> its folder, the smallest first."""
        from whorl.model.folder import model_folders

        return model_folders(self._producer())

    @functools.cached_property
    def served(self) -> Callable[[ServeConfig], tuple[Variant, Path]]:
        """The variant that a config names or its targets choose, without them the smallest that the
        engine serves; the trained model is one too. Chosen once in a session."""
        from whorl.model.folder import model_folders
        from whorl.wiring.choice import served_of

        there = lambda: self.variants() | model_folders(self.train())  # noqa: E731
        return functools.cache(partial(served_of, there, self.log))

    def _measure(self, model: Path, variant: Variant) -> dict[str, QualityMeasure]:
        """The `Measure` that compress is handed: quality of a folder through its engine."""
        from whorl.codecs.contract import Tokens
        from whorl.core.heldout import HeldoutDocuments
        from whorl.model.folder import TOKENS
        from whorl.stages.evaluate.measure import ask, measure, select_documents

        decided = self.planned.decisions
        documents = HeldoutDocuments.open(self.records["prepare"])
        limits = (decided.evaluate.max_bytes, decided.compress.max_documents)
        tokens = Tokens.load(model / TOKENS)
        asked = {}
        for name, each in self.fields.items():
            of_field = documents.of_field(name)
            numbers = select_documents(of_field, *limits)
            asked[name] = ask(each.task, tokens.of_field(name), of_field, numbers)
        engine = self._open_engine(model, variant)
        scored = partial(
            measure, engine, tokens, window=decided.evaluate.window, progress=self.progress
        )
        try:
            return {name: scored(questions) for name, questions in asked.items()}
        finally:
            engine.close()

    def _open_engine(self, model: Path, variant: Variant) -> Engine:
        from whorl.wiring.asked import open_asked

        return open_asked(self, model, variant)

    # -------------------------------------------------------------- serving

    def open_app(
        self,
        config: ServeConfig | None = None,
        api_key: str | None = None,
        is_open: bool = False,
    ) -> Service:
        """Of the variant that is `served`: see `open_model_app`."""
        chosen = config or self.planned.decisions.serve
        variant, folder = self.served(chosen)
        quality = self.scores() if "evaluate" in self.records else []
        prompts = (prompt for field in self.fields.values() for prompt in field.task.prompts)
        model = Servable(self.name, folder, variant, quality)
        prompt = next(prompts, "")
        return open_model_app(model, chosen, api_key, prompt, home=self.home, is_open=is_open)

    def serve(self) -> Record:
        """Serve on a free port, ask real questions through HTTP, stop."""

        def make() -> Record:
            from whorl.stages.serve.brief import run, samples_of

            producer = self._producer()
            inputs = {record.stage: record.digest for record in (producer, self.evaluate())}
            config = self.planned.decisions.serve
            variant, _ = self.served(config)
            prepared = self.records["prepare"]
            samples = {
                name: samples_of(name, field.task, prepared) for name, field in self.fields.items()
            }
            return run(self.context, config, inputs, variant, samples, self.open_app)

        self.evaluate()
        return self._stage("serve", make)

    def improve(self) -> Version:
        """Register the model as a new version with its lineage and scores; idempotent.

        Raises GateError if it forgot more than the recipe allows.
        """
        from whorl.stages.improve.registry import register
        from whorl.wiring.forgetting import check_forgetting

        check_forgetting(self.loaded.recipe, self.evaluate())
        self.serve()
        lineage = {stage: record.digest for stage, record in self.records.items()}
        if self.base is not None:
            lineage["base"] = self.base.record.digest
        return register(self.home, self.name, lineage, self.scores())

    def scores(self) -> list[ScoreRow]:
        """Figures of the evaluate record, as plain values."""
        found = json.loads(self.evaluate().file("scores.json").read_bytes())
        return list(found["scores"])

    def considered(self) -> Plan | None:
        """What `plan` would leave, without a record of it; None on other hardware."""
        from whorl.wiring.plans import considered

        return considered(self) if self.loaded.recipe.hardware.is_here else None

    def up(self) -> Report:
        """All stages; what was done before is reused. The report, as plain values."""
        from whorl.stages.improve.report import build_report

        MissingExtra.check("torch", "train", "whorl up")
        if self._compresses:
            MissingExtra.check("openvino_genai", "openvino", "whorl up")
        version = self.improve()
        return build_report(self.name, self.records, self.took_s, version.version)


def _verb(stage: str, recipe: RecipeLike, options: Mapping[str, Any]) -> Record:
    record: Record = getattr(Session.open(recipe, **options), stage)()
    return record


def prepare(recipe: RecipeLike, **options: Any) -> Record:
    """Prepared data of a recipe (path, dict or LoadedRecipe). Options: overrides, home, progress,
    workers."""
    return _verb("prepare", recipe, options)


def train(recipe: RecipeLike, **options: Any) -> Record:
    """The trained model of a recipe; `record.folder("model")` is its Hugging Face folder."""
    return _verb("train", recipe, options)


def compress(recipe: RecipeLike, **options: Any) -> Record:
    """Servable variants of a recipe's model. Raises GateError when one loses too much."""
    return _verb("compress", recipe, options)


def evaluate(recipe: RecipeLike, **options: Any) -> Record:
    """Scores of a recipe's model and of baselines, with 95% intervals."""
    return _verb("evaluate", recipe, options)


def improve(recipe: RecipeLike, **options: Any) -> Version:
    """Register a recipe's model as a version; everything before it is done first."""
    return Session.open(recipe, **options).improve()


def up(recipe: RecipeLike, **options: Any) -> Report:
    """All seven stages; the report as plain values."""
    return Session.open(recipe, **options).up()


def serve(
    recipe: RecipeLike | Session,
    *,
    on_start: Callable[[Address], None] = lambda address: None,
    api_key: str | None = None,
    config: ServeConfig | None = None,
    **options: Any,
) -> None:
    """Serve a recipe's model until SIGTERM or SIGINT. on_start is told the address and the key."""
    session = recipe if isinstance(recipe, Session) else Session.open(recipe, **options)
    chosen = config or session.planned.decisions.serve
    home = session.home
    serve_app(lambda key: session.open_app(chosen, key, True), chosen, on_start, api_key, home)
