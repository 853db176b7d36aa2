"""Tasks of lm-evaluation-harness on a model of ours, through the engine that serves it.

The harness (extra lm-eval) brings tasks, few-shot prompts, filters and metrics; this file is the
language model it asks. Tasks are files of somebody's here; nothing is fetched. One that names
Python code of its own (`!function`) is refused unless that is allowed.

Axes: none; ids are lists.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from whorl.codecs.contract import Tokens
from whorl.core.collect import run_requests
from whorl.core.context import NoProgress
from whorl.core.errors import DataError, MissingExtra, SpecError
from whorl.core.ports import Engine, GenerateRequest, Progress
from whorl.core.variants import Variant
from whorl.engines.open import CACHE, open_engine
from whorl.model.folder import TOKENS, read_card

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["HarnessModel", "confined", "run_harness", "task_files"]

CODE, PYTHON = "!function", "tag:yaml.org,2002:python/"  # tags that name code
INCLUDE = "include"  # key of a task file: other files, from its own folder
MAX_TOKENS = 256  # of an answer, unless the task says
DRAWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # of a task's options
ENDINGS = (".yaml", ".yml")
REFUSALS = (OSError, ValueError, LookupError, AttributeError, TypeError)  # of a wrong task
SWITCHES = (  # of libraries below the harness
    *("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    *("HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"),
)


def run_harness(
    folder: Path,
    tasks: Sequence[Path],
    *,
    home: Path,
    variant: Variant | None = None,
    limit: int | None = None,
    may_run_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores of a model on task files, or on all in a folder, with the harness' standard errors.

    Plain data: {"variant", "tasks": [{task, metric, value, stderr, num_documents}]}.
    Raises MissingExtra without the harness, SpecError or DataError on a task that cannot be run.
    """
    MissingExtra.check("lm_eval", "lm-eval", "tasks of lm-evaluation-harness")
    files = task_files(tasks, may_run_code)
    card, tokens = read_card(folder), Tokens.load(folder / TOKENS)
    engine = open_engine(folder, variant, cache_folder=home / CACHE)
    shown = progress or NoProgress()
    try:
        shown.start(f"lm-evaluation-harness: {len(files)} tasks", None)
        found = _evaluated(HarnessModel(engine, tokens, card.shape.max_seq_len), files, limit)
        shown.finish()
    finally:
        engine.close()
    return {"variant": str(variant or card.variant), "tasks": found}


def task_files(tasks: Sequence[Path], may_run_code: bool) -> list[Path]:
    """The YAML files that are meant.

    Raises SpecError if there is none, or one or what it includes names code, DataError if one is
    no YAML.
    """
    files: list[Path] = []
    for path in tasks:
        inside = [each for each in sorted(path.glob("*")) if each.suffix in ENDINGS]
        files += inside if path.is_dir() else [path]
    if not files or (missing := [str(file) for file in files if not file.is_file()]):
        raise SpecError(
            "there are no task files",
            found=", ".join(missing) if files else ", ".join(map(str, tasks)),
            expected="YAML files of lm-evaluation-harness",
        )
    coded = list(dict.fromkeys(name for file in files for name in _coded(file, set())))
    if coded and not may_run_code:
        raise SpecError(
            "tasks that run Python code of their own",
            found=", ".join(coded),
            do="read that code, and allow it by --run-code",
        )
    return files


def _coded(file: Path, known: set[Path]) -> Iterator[str]:
    """Names of this file and of those it includes that name code; known: those looked at."""
    file = file.expanduser().resolve()
    if file in known or not file.is_file():
        return
    known.add(file)
    try:
        nodes = list(_nodes(yaml.compose(file.read_text("utf-8"), Loader=yaml.SafeLoader), set()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is no YAML", found=error) from error
    if any(node.tag == CODE or node.tag.startswith(PYTHON) for node in nodes):
        yield file.name
    for node in nodes:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value == INCLUDE:
                for each in _nodes(value, set()):
                    if isinstance(each, yaml.ScalarNode):
                        yield from _coded(file.parent / each.value, known)


def _nodes(node: Any, known: set[int]) -> Iterator[Any]:
    """All of a document, each once: aliases may lead in a circle."""
    if node is None or id(node) in known:
        return
    known.add(id(node))
    yield node
    if isinstance(node, yaml.MappingNode):
        inside = [each for pair in node.value for each in pair]
    else:
        inside = node.value if isinstance(node, yaml.SequenceNode) else []
    for each in inside:
        yield from _nodes(each, known)


def _evaluated(model: HarnessModel, files: Sequence[Path], limit: int | None) -> list[Any]:
    with _quiet_and_offline(), contextlib.redirect_stdout(io.StringIO()):
        import lm_eval
        import lm_eval.utils as of_harness
        from jinja2 import TemplateError
        from lm_eval.tasks import TaskManager

        of_harness.env = confined(of_harness.env)  # what `apply_template` renders by
        try:
            found = lm_eval.simple_evaluate(
                model=_as_lm(model),
                tasks=[str(file.resolve()) for file in files],
                task_manager=TaskManager(include_defaults=False),
                limit=limit,
                log_samples=False,
                bootstrap_iters=1000,
            )
        except (*REFUSALS, TemplateError) as error:
            raise DataError("lm-evaluation-harness refuses a task", found=error) from error
    rows = []
    for task, metrics in found["results"].items():
        for name, value in metrics.items():
            metric, _, which = name.partition(",")
            if isinstance(value, float | int) and not metric.endswith("_stderr") and which:
                stderr = metrics.get(f"{metric}_stderr,{which}")
                rows.append(
                    {
                        "task": task,
                        "metric": metric if which == "none" else f"{metric} ({which})",
                        "value": float(value),
                        "stderr": stderr if isinstance(stderr, float) else None,
                        "num_documents": found["n-samples"][task]["effective"],
                    }
                )
    return rows


def confined(environment: Environment) -> Environment:
    """The same, but for templates that reach for Python's own: they raise SecurityError."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    found = ImmutableSandboxedEnvironment(
        loader=environment.loader,
        undefined=environment.undefined,
        keep_trailing_newline=environment.keep_trailing_newline,
    )
    found.filters |= environment.filters
    return found


@contextlib.contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """No library below the harness asks a hub, draws a bar, or tells of defaults it takes."""
    before = {name: os.environ.get(name) for name in SWITCHES}
    os.environ |= dict.fromkeys(SWITCHES, "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class HarnessModel:
    """What the harness asks of a language model, answered by an engine."""

    def __init__(self, engine: Engine, tokens: Tokens, max_tokens: int) -> None:
        self.engine, self.tokens, self.max_tokens = engine, tokens, max_tokens
        self._number = 0

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """(log-probability of what follows a context, whether it is the greedy answer)."""
        cut = [(ids[:-length], ids[-length:]) for ids, length in map(self._ids, pairs)]
        scored = self.engine.score([before + after for before, after in cut])
        longest: dict[tuple[int, ...], int] = {}  # choices of one question share what is before
        for before, after in cut:
            longest[tuple(before)] = max(len(after), longest.get(tuple(before), 0))
        answers = self._answers([(list(before), most) for before, most in longest.items()])
        greedy = dict(zip(longest, answers, strict=True))
        return [
            (float(scores[-len(after) :].sum()), greedy[tuple(before)][: len(after)] == after)
            for scores, (before, after) in zip(scored, cut, strict=True)
        ]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of whole texts, in windows that overlap by half."""
        from whorl.stages.evaluate.measure import windows_of

        totals = []
        for text in texts:
            ids = self.tokens.encode_prompt(text)
            parts = list(windows_of(len(ids), self.max_tokens))
            scores = self.engine.score([ids[part.start : part.end] for part in parts])
            totals.append(
                sum(
                    float(found[part.first - part.start - 1 :].sum())
                    for part, found in zip(parts, scores, strict=True)
                )
            )
        return totals

    def generate_until(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Answers, cut before the first of the texts that end them; greedy unless asked else."""
        work, sampled = [], []
        for context, options in asked:
            ids = self.tokens.encode_prompt(context) or [self._first_id()]
            room = max(self.max_tokens // 2, self.max_tokens - len(ids))
            most = min(int(options.get("max_gen_toks", MAX_TOKENS)), room)
            work.append((ids[-max(1, self.max_tokens - most) :], most))
            sampled.append(_drawn(options))
        stops = self.tokens.contract.stop_ids
        texts = [self.tokens.decode(ids) for ids in self._answers(work, stops, sampled)]
        return [
            _cut(text, options.get("until") or ())
            for text, (_, options) in zip(texts, asked, strict=True)
        ]

    def apply_chat_template(
        self, chat: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        ids, _ = self.tokens.encode_chat({"messages": list(chat)}, ask=add_generation_prompt)
        return self.tokens.decode(ids.tolist(), skip_special=False)

    def _ids(self, pair: tuple[str, str]) -> tuple[list[int], int]:
        """(ids of both texts, how many are the second's), cut on the left to what fits."""
        context, rest = pair
        context, spaces = context.rstrip(), context[len(context.rstrip()) :]
        before = self.tokens.encode_prompt(context) or [self._first_id()]
        whole = self.tokens.encode_prompt(context + spaces + rest) if context else []
        ids = whole if whole[: len(before)] == before and len(whole) > len(before) else []
        if not ids:  # the border falls into a token
            ids = [*before, *self._of_rest(spaces + rest)]
        length = len(ids) - len(before)
        return ids[-self.max_tokens :], min(length, self.max_tokens - 1)

    def _of_rest(self, text: str) -> list[int]:
        return self.tokens.encode_prompt(text)[len(self.tokens.contract.start_ids) :]

    def _first_id(self) -> int:
        """Stands before a text with nothing before it."""
        contract = self.tokens.contract
        return next(iter((*contract.start_ids, *contract.end_ids, contract.pad_id)))

    def _answers(
        self,
        work: Sequence[tuple[list[int], int]],
        stops: Sequence[int] = (),
        sampled: Sequence[Mapping[str, Any]] = (),
    ) -> list[list[int]]:
        requests = []
        drawn: Mapping[str, Any]
        for (ids, most), drawn in zip_longest(work, sampled, fillvalue={}):
            self._number += 1
            name, seed = f"harness-{self._number}", self._number
            requests.append(
                GenerateRequest(name, tuple(ids), most, stop_ids=tuple(stops), seed=seed, **drawn)
            )
        return [answer.token_ids for answer in run_requests(self.engine, requests)]


def _drawn(options: Mapping[str, Any]) -> dict[str, Any]:
    """How a task wants answers to be drawn; {}: greedily. None and -1 say nothing there."""
    if options.get("do_sample") is False:
        return {}
    return {name: options[name] for name in DRAWN if options.get(name) not in (None, -1)}


def _cut(text: str, ends: Sequence[str] | str) -> str:
    for end in [ends] if isinstance(ends, str) else ends:
        text = text.partition(end)[0] if end else text
    return text


def _as_lm(model: HarnessModel) -> Any:
    """The harness' own kind of object."""
    from lm_eval.api.model import LM

    class _Asked(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: Any) -> Any:
            return model.loglikelihood([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Any) -> Any:
            return model.loglikelihood_rolling([request.args[0] for request in requests])

        def generate_until(self, requests: Any) -> Any:
            return model.generate_until([request.args for request in requests])

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            return model.apply_chat_template(chat_history, add_generation_prompt)

    return _Asked()
