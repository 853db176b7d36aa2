"""What lm-evaluation-harness asks, against transformers' answers; and the harness itself if it is
installed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2 import Environment, StrictUndefined
from jinja2.exceptions import SecurityError, UndefinedError

from whorl.codecs.contract import Tokens
from whorl.core.errors import DataError, SpecError
from whorl.engines.open import open_engine
from whorl.model.folder import read_card
from whorl.testing.models import tiny_model_folder
from whorl.wiring.harness import HarnessModel, confined, run_harness, task_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("harness") / "model", steps=60)


@pytest.fixture(scope="module")
def asked(folder: Path) -> Any:
    engine = open_engine(folder, read_card(folder).variant)
    yield HarnessModel(engine, Tokens.load(folder / "tokens"), 256)
    engine.close()


class Theirs:
    """transformers over the same folder."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def logprobs(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0]
        return logits.log_softmax(-1)


def test_likelihoods_are_transformers(folder: Path, asked: HarnessModel) -> None:
    theirs, tokens = Theirs(folder), asked.tokens
    pairs = [("The shell is", " round"), ("A", " shell grows"), ("", "Once more"), ("x", "yz")]
    for (context, rest), (total, is_greedy) in zip(pairs, asked.loglikelihood(pairs), strict=True):
        before = tokens.encode_prompt(context)
        ids = tokens.encode_prompt(context + rest)
        if ids[: len(before)] != before:  # the border falls into a token
            ids = [*before, *tokens.encode_prompt(rest)[1:]]
        found = theirs.logprobs(ids)
        places = range(len(before), len(ids))
        assert total == pytest.approx(sum(float(found[n - 1, ids[n]]) for n in places), abs=1e-3)
        assert is_greedy == all(int(found[n - 1].argmax()) == ids[n] for n in places)
    greedy = asked.generate_until([("The shell is", {"max_gen_toks": 3, "until": []})])[0]
    text = tokens.decode(tokens.encode_prompt("The shell is" + greedy)[1:])
    assert text == "The shell is" + greedy
    (_, is_greedy), *_ = asked.loglikelihood([("The shell is", greedy)])
    assert is_greedy


def test_whole_texts_count_every_id_once(folder: Path, asked: HarnessModel) -> None:
    theirs, text = Theirs(folder), "A shell grows by turns. " * 6
    ids = asked.tokens.encode_prompt(text)
    found = theirs.logprobs(ids)
    whole = sum(float(found[n - 1, ids[n]]) for n in range(1, len(ids)))
    assert asked.loglikelihood_rolling([text])[0] == pytest.approx(whole, rel=1e-4)
    short = HarnessModel(asked.engine, asked.tokens, len(ids) // 3)
    (windowed,) = short.loglikelihood_rolling([text])
    assert windowed != pytest.approx(whole, rel=1e-6)
    assert windowed == pytest.approx(whole, rel=0.5)


def test_answers_end_where_they_are_told(asked: HarnessModel) -> None:
    (whole,) = asked.generate_until([("The", {"max_gen_toks": 24})])
    end = whole[len(whole) // 2 :][:3]
    (cut,) = asked.generate_until([("The", {"max_gen_toks": 24, "until": ["\0", end]})])
    assert cut == whole[: whole.index(end)]


def test_answers_are_drawn_where_a_task_asks(asked: HarnessModel) -> None:
    drawn = {"max_gen_toks": 24, "do_sample": True, "temperature": 1.5, "top_p": 0.9}
    first, second = asked.generate_until([("The", drawn)] * 2)
    assert first != second
    greedy = asked.generate_until([("The", {"max_gen_toks": 24})] * 2)
    assert greedy == asked.generate_until([("The", {**drawn, "do_sample": False})] * 2)
    (whole,) = asked.generate_until([("The", {"max_gen_toks": 10_000})])  # more than there is room
    assert whole.startswith(greedy[0])


def test_tasks_are_files_without_code(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: a\n")
    (tmp_path / "b.yaml").write_text("task: b\nprocess_docs: !function utils.process\n")
    assert task_files([tmp_path / "a.yaml"], may_run_code=False) == [tmp_path / "a.yaml"]
    with pytest.raises(SpecError, match=r"b\.yaml.*--run-code"):
        task_files([tmp_path], may_run_code=False)
    assert len(task_files([tmp_path], may_run_code=True)) == 2
    hidden = {  # the tag written otherwise, and in a file that another includes
        "c.yaml": "task: c\nprocess_docs: !%66unction utils.process\n",
        "d.yaml": "task: d\ninclude: below/_base\n",
        "e.yaml": "task: e\ninclude: [below/more.yaml]\n",
        "below/_base": "process_docs: !function utils.process\n",
        "below/more.yaml": "include: _base\n",
        "f.yaml": "task: f\nself: &me [*me]\ndoc_to_text: 'says !function'\n",
    }
    (tmp_path / "below").mkdir()
    for name, text in hidden.items():
        (tmp_path / name).write_text(text)
    for name in ("c.yaml", "d.yaml", "e.yaml"):
        with pytest.raises(SpecError, match="--run-code"):
            task_files([tmp_path / name], may_run_code=False)
    assert task_files([tmp_path / "f.yaml"], may_run_code=False)
    (tmp_path / "g.yaml").write_text("task: [\n")
    with pytest.raises(DataError, match="no YAML"):
        task_files([tmp_path / "g.yaml"], may_run_code=False)
    with pytest.raises(SpecError, match="no task files"):
        task_files([tmp_path / "none.yaml"], may_run_code=False)


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
    "{{ rows.append(1) }}",
)


@pytest.mark.parametrize("escape", ESCAPES)
def test_templates_of_tasks_are_confined(escape: str) -> None:
    """With an environment as lm_eval.utils makes one; what it renders there stays as it was."""
    theirs = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    theirs.filters["regex_replace"] = lambda text, find, into: re.sub(find, into, text)
    plain = "{{ question | regex_replace('a+', 'b') }}: {{ rows[0] }}{% if rows %}!{% endif %}\n"
    values = {"question": "aah", "rows": [2]}
    assert confined(theirs).from_string(plain).render(values) == "bh: 2!\n"
    with pytest.raises(SecurityError):
        confined(theirs).from_string(escape).render(values)
    with pytest.raises(UndefinedError):
        confined(theirs).from_string("{{ missing }}").render(values)


@pytest.mark.filterwarnings("ignore")  # of the harness and its libraries
def test_the_harness_runs_local_tasks(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness (extra lm-eval) is not installed")
    rows = [
        {"question": f"Shell {n}:", "choices": ["round", "flat"], "right": n % 2} for n in range(6)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "shells.yaml").write_text(
        "task: shells\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: right\n'
        "metric_list: [{metric: acc}]\n"
    )
    found = run_harness(folder, [tmp_path / "shells.yaml"], home=tmp_path / "home")
    (row,) = [row for row in found["tasks"] if row["metric"] == "acc"]
    engine = open_engine(folder, read_card(folder).variant)
    ours = HarnessModel(engine, Tokens.load(folder / "tokens"), 256)
    right = 0
    for each in rows:
        pairs = [(each["question"], f" {choice}") for choice in each["choices"]]
        scores = [total for total, _ in ours.loglikelihood(pairs)]  # type: ignore[arg-type]
        right += int(scores.index(max(scores)) == each["right"])
    engine.close()
    assert row["value"] == pytest.approx(right / 6) and row["num_documents"] == 6
    task = (tmp_path / "shells.yaml").read_text()
    (tmp_path / "hostile.yaml").write_text(task.replace("{{question}}", ESCAPES[0]))
    with pytest.raises(DataError, match="unsafe"):
        run_harness(folder, [tmp_path / "hostile.yaml"], home=tmp_path / "home")
