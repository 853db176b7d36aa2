"""The benchmark of the main job on made-up records: figures, medians, table, one JSON document."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import main_job
import pytest
from rich.console import Console

from whorl.core.records import RecordKey, RecordStore

# seed -> bits per byte, 5-gram of the same tokens, of all, xz, steps, seconds
SEEDS = {
    0: (1.215, 1.497, 1.421, 1.533, 2264, 240.25),
    1: (1.398, 1.390, 1.340, 1.501, 1130, 239.5),
    2: (1.300, 1.450, 1.400, 1.520, 2000, 241.0),
}


def score(name: str, value: float, kind: str = "baseline") -> dict[str, Any]:
    return {"kind": kind, "name": name, "metric": "bits_per_byte", "value": value}


def scores_of(seed: int, same: bool = True) -> list[dict[str, Any]]:
    ours, same_tokens, all_tokens, stream, *_ = SEEDS[seed]
    seen = [score("5-gram Kneser-Ney, the tokens the model saw", same_tokens)] if same else []
    return [
        score("openvino int8", ours + 0.001, "model"),
        score("openvino f32", ours, "model"),
        *seen,
        score("5-gram Kneser-Ney, all training tokens", all_tokens),
        score("xz -9, each document alone", 1.8),
        score("xz -9, in one stream", stream),
        score("xz -9 after 8.0 MiB of training text", 1.252),
    ]


class FakeWhorl:
    """Writes the records that `whorl evaluate` would, unless they are there, and answers as it."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, arguments: Sequence[str]) -> str:
        self.commands.append(list(arguments))
        seed = next(int(a.removeprefix("seed=")) for a in arguments if a.startswith("seed="))
        store = RecordStore(Path(arguments[arguments.index("--home") + 1]), "tiny")
        *_, steps, train_s = SEEDS[seed]
        train = RecordKey("train", {"train": {"steps": steps, "batch_tokens": 2048, "seed": seed}})
        evaluate = RecordKey("evaluate", {}, {"train": train.digest})
        for key, run in ((train, {"train_s": train_s}), (evaluate, {})):
            if store.find(key) is None:
                with store.write(key) as writer:
                    writer.run.update(run)
        record = store.published(evaluate)
        return json.dumps({"record": str(record.path), "scores": scores_of(seed)})


def test_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whorl = FakeWhorl()
    arguments = ["--seeds", "3", "--home", str(tmp_path), "--json"]
    main_job.main([*arguments, "--set", "budget.train_time=10s"], whorl)
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert out.count("\n") == 1
    assert found["seeds"][0] == {
        "seed": 0,
        "bits_per_byte": 1.215,
        "ngram_same_tokens": 1.497,
        "ngram_all_tokens": 1.421,
        "xz_one_stream": 1.533,
        "train_tokens": 4_636_672,
        "train_s": 240.25,
        "reused": False,
    }
    assert [row["seed"] for row in found["seeds"]] == [0, 1, 2]
    assert found["median_bits_per_byte"] == 1.300
    assert found["median_train_tokens"] == 4_096_000 and found["median_train_s"] == 240.25
    assert found["below_ngram_same_tokens"] == 2
    assert {"cpu", "cores", "flags", "torch_cpu_capability"} <= found["machine"].keys()
    assert all(f"seed {seed}: bits per byte {SEEDS[seed][0]:.3f}" in err for seed in range(3))
    assert whorl.commands[1][0] == "evaluate" and whorl.commands[1][1].endswith("stdlib.yaml")
    assert whorl.commands[1][2:6] == ["--set", "budget.train_time=10s", "--set", "seed=1"]
    main_job.main(arguments, whorl)
    out, err = capsys.readouterr()
    assert all(row["reused"] for row in json.loads(out)["seeds"])
    assert "seed 2 (reused)" in err


def test_the_table() -> None:
    rows = [
        {"seed": seed, **main_job.figures_of(scores_of(seed)), "reused": seed == 2}
        | {"train_tokens": 2048 * SEEDS[seed][4], "train_s": SEEDS[seed][5]}
        for seed in SEEDS
    ]
    machine = {"cpu": "A CPU", "cores": 2, "torch_cpu_capability": "AVX2"}
    found = {"recipe": "tiny", "machine": machine, "seeds": rows, **main_job.summary_of(rows)}
    out = io.StringIO()
    Console(file=out, width=200).print(main_job.table_of(found))
    lines = [line.replace("│", "").split() for line in out.getvalue().splitlines()]
    assert "A CPU, 2 cores, AVX2" in out.getvalue()
    assert ["0", "1.215", "1.497", "1.421", "1.533", "4,636,672", "240.2", "s", "yes"] in lines
    assert ["1", "1.398", "1.390", "1.340", "1.501", "2,314,240", "239.5", "s", "no"] in lines
    assert any(line[:2] == ["2", "(reused)"] and line[-1] == "yes" for line in lines)
    (medians,) = (line for line in lines if line[:1] == ["median"])
    assert medians[1:6] == ["1.300", "1.450", "1.400", "1.520", "4,096,000"]
    assert medians[-3:] == ["2", "of", "3"]


def test_a_model_that_saw_everything_has_one_ngram_model() -> None:
    figures = main_job.figures_of(scores_of(0, same=False))
    assert figures["ngram_same_tokens"] == figures["ngram_all_tokens"] == 1.421


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([score("openvino int8", 1.0, "model")], "no score for bits_per_byte"),
        ([score("openvino f32", 1.0, "model")], "ngram_all_tokens.*xz_one_stream"),
        ([{**score("openvino f32", 0.9, "model"), "metric": "accuracy"}], "accuracy"),
    ],
)
def test_a_missing_score_is_named(scores: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        main_job.figures_of(scores)


def test_a_run_that_fails_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main_job.sys, "executable", "false")
    with pytest.raises(SystemExit, match="ended with 1"):
        main_job.launch_whorl(["evaluate"])


def test_flags_of_interest() -> None:
    intel = "processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 sse2 avx512f\n\nflags\t\t: avx_vnni\n"
    assert main_job.flags_in(intel) == ["avx2", "avx512f", "amx_bf16"]
    assert main_job.flags_in("Features\t: fp asimd bf16 sve\n") == ["asimd", "bf16", "sve"]
    assert main_job.flags_in("") == []


def test_make_bench_leaves_it_out() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    (line,) = (line for line in makefile.splitlines() if line.startswith("LONG :="))
    assert "main_job" in line.split() and main_job.RECIPE.exists()
