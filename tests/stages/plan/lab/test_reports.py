"""Reports of practitioners: what their words become, and that nothing aborts."""

from __future__ import annotations

import csv
import re
from importlib.resources import files
from pathlib import Path

import pytest

from whorl.core.errors import DataError
from whorl.stages.plan.lab.predict import predict_published
from whorl.stages.plan.lab.reports import RunReport, parse_report, read_reports

FOLDER = Path(str(files("whorl.stages.plan.cluster") / "published"))
TRAINED = {
    **{"id": "t1", "repo": "someone/something README", "model": "llama-3.1-8b"},
    **{"device": "a100-80", "count": "8", "seq": "4096", "mbs": "2", "gbs": "32"},
    **{"layout": "zero=fsdp,recompute=full", "precision": "bf16-true", "optimizer": "adamw"},
    **{"stack": "fsdp", "measured_metric": "tokens_per_s_per_gpu", "measured_value": "2000"},
}
SERVED = {
    **{"id": "s1", "repo": "someone/engine#1", "model": "qwen3-4b", "device": "h100", "count": "1"},
    **{"seq": "1024", "mbs": "4", "gbs": "128", "precision": "bf16", "stack": "vllm"},
    **{"lora": "serving", "measured_metric": "tpot_ms", "measured_value": "8"},
}


def read(row: dict[str, str], **changes: str) -> RunReport:
    return parse_report({**row, **changes}, FOLDER)


def test_a_training_report_becomes_the_job_it_tells_of() -> None:
    row = read(TRAINED).row
    assert row.job is not None and row.refused is None
    assert (row.source, row.measured) == ("someone/something", 2000)
    layout = row.job.layout
    assert (layout.devices, layout.shard, layout.recompute) == (8, "zero3", "full")
    assert (layout.micro_batch, row.job.global_batch, row.job.seq_len) == (2, 32, 4096)
    assert row.job.pure_low_precision and row.job.precision == "bf16"


def test_step_seconds_become_a_rate() -> None:
    """32 sequences of 4,096 tokens on 8 devices in 8 seconds."""
    row = read(TRAINED, measured_metric="step_s", measured_value="8").row
    assert row.measured == pytest.approx(32 * 4096 / 8 / 8)


def test_adapters_say_rank_and_base() -> None:
    lora = read(TRAINED, lora="lora base=nf4 rank=64").row.job
    assert lora is not None and lora.lora is not None
    assert (lora.task, lora.lora.rank, lora.lora.base) == ("lora", 64, "nf4")


def test_a_serving_report_becomes_a_load() -> None:
    report = read(SERVED)
    assert report.row.job is None and len(report.served) == 1
    (load,) = report.served
    assert (load.users, load.input_tokens, load.output_tokens) == (4, 1024, 128)


def test_a_service_that_names_no_engine_is_each_of_them() -> None:
    loads = read(SERVED, stack="", precision="").served
    assert {load.engine for load in loads} == {"vllm", "sglang", "trtllm"}
    assert {load.deployment.quantisation.name for load in loads} == {"bf16", "fp8"}


@pytest.mark.parametrize(
    ("repo", "note", "stated", "stack"),
    [
        ("meta-pytorch/torchtune README", "LoRA", "fsdp", "torchtune"),
        ("unslothai/unsloth#824", "QLoRA", "fsdp", "unsloth"),
        ("modelscope/ms-swift Megatron Quick-start", "DeepSpeed ZeRO-3", "megatron", "deepspeed"),
        ("modelscope/ms-swift Megatron Quick-start", "megatron sft", "megatron", "megatron"),
        ("pytorch/ao PR 1793", "FSDP2, compile", "fsdp", "torchtitan"),
        ("ROCm/rocm-blogs llama", "HF Trainer", "fsdp", "hf"),
        ("someone/x", "", "fsdp", "fsdp"),
        ("someone/x", "", "deepspeed", "deepspeed"),
    ],
)
def test_words_tell_the_software_behind_a_stand_in(
    repo: str, note: str, stated: str, stack: str
) -> None:
    job = read(TRAINED, repo=repo, note=note, stack=stated).row.job
    assert job is not None and job.stack == stack


def test_what_a_note_adds_to_a_run() -> None:
    note = (
        "pure bf16, paged 8-bit AdamW, step in backward, 8 loss chunks, activation offload, packed"
    )
    job = read(TRAINED, precision="bf16", optimizer="adamw_8bit", note=note).row.job
    assert job is not None and job.pure_low_precision and job.step_in_backward
    assert (job.optimizer, job.loss) == ("paged_adamw_8bit", "chunked")
    assert job.layout.offload_activations and job.document_tokens > 0


def test_a_note_with_a_plus_adds_to_the_run_before(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    runs = [("a", "packed"), ("b", "+ activation offload"), ("b", "+ activation offload")]
    runs += [("c", "8 loss chunks"), ("d", "+ packed")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*TRAINED, "note"])
        writer.writeheader()
        for name, note in runs:
            repo = "other/repo" if name == "d" else TRAINED["repo"]
            writer.writerow({**TRAINED, "id": name, "note": note, "repo": repo})
    jobs = [item.row.job for item in read_reports(path)]
    read_as = [(j.document_tokens > 0, j.layout.offload_activations, j.loss) for j in jobs if j]
    both = (True, True, "")
    assert read_as == [(True, False, ""), both, both, (False, False, "chunked"), (True, False, "")]


def test_packed_documents_of_no_stated_length_are_between_short_ones_and_the_row() -> None:
    for seq in (256, 8192):
        row = read(TRAINED, seq=str(seq), note="packed").row
        assert row.job is not None and "document_tokens" in row.inferred
        assert min(512, seq) <= row.job.document_tokens <= seq


def test_recomputation_is_as_the_row_states_it() -> None:
    plain = {"layout": "zero=none,recompute=none", "note": "QLoRA, HF Trainer", "count": "1"}
    row = read(TRAINED, stack="hf", lora="lora base=nf4", **plain).row
    assert row.job is not None and row.job.layout.recompute == "none"
    with (FOLDER / "reports.csv").open(encoding="utf-8", newline="") as file:
        stated = [re.search(r"recompute=(\w+)", row["layout"]) for row in csv.DictReader(file)]
    jobs = [item.row.job for item in read_reports(FOLDER / "reports.csv")]
    both = [(job.layout.recompute, said[1]) for job, said in zip(jobs, stated, strict=True)
            if job is not None and said is not None]  # fmt: skip
    assert len(both) > 40 and all(ours == said for ours, said in both)


def test_a_run_without_a_layout_says_what_was_assumed() -> None:
    row = read(TRAINED, layout="", note="QLoRA").row
    assert row.job is not None and row.job.lora is not None and row.job.lora.base == "nf4"
    assert {"micro_batch", "recompute", "shard"} <= row.inferred
    assert "device" in read(TRAINED, note="GPU not stated (80 GB)").row.inferred - row.inferred


@pytest.mark.parametrize(
    ("row", "changes", "said"),
    [
        (TRAINED, {"device": "h999"}, "unknown device"),
        (TRAINED, {"count": ""}, "column count is empty"),
        (TRAINED, {"optimiser": "adamw"}, "column optimiser is not known"),
        (TRAINED, {"optimizer": "adamwx"}, "adamwx"),
        (TRAINED, {"stack": "mystack"}, "mystack"),
        (TRAINED, {"precision": "int3"}, "int3"),
        (TRAINED, {"lora": "lora base=int3"}, "int3"),
        (TRAINED, {"lora": "prefix"}, "prefix"),
        (TRAINED, {"layout": "tp=3"}, "3"),
        (TRAINED, {"measured_metric": "runtime_s"}, "runtime_s"),
        (TRAINED, {"model": "configs/none.json"}, "none.json"),
        (SERVED, {"stack": "myengine"}, "myengine"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_that_row_s_reason(
    row: dict[str, str], changes: dict[str, str], said: str
) -> None:
    found = read(row, **changes)
    assert found.row.job is None and not found.served
    assert found.row.refused is not None
    assert found.row.refused.startswith(f"row {row['id']}: ") and said in found.row.refused


def test_every_report_is_answered_in_its_order() -> None:
    path = FOLDER / "reports.csv"
    with path.open(encoding="utf-8", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    answers = predict_published(path)["rows"]
    assert [answer["id"] for answer in answers] == ids
    for answer in answers:
        figures = (answer["low"], answer["predicted"], answer["high"])
        if answer["predicted"] is None:
            assert answer["id"] in answer["refused"]
        else:
            assert figures == tuple(sorted(figures)), answer


def test_measured_values_do_not_reach_the_answers(tmp_path: Path) -> None:
    with (FOLDER / "reports.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"][0] in "DS"]
    answers = []
    for number, forged in enumerate((None, "777")):
        path = tmp_path / f"{number}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(
                {
                    **row,
                    "model": str(FOLDER / row["model"]) if "/m" in row["model"] else row["model"],
                    "measured_value": forged or row["measured_value"],
                }
                for row in rows
            )
        answers.append(predict_published(path)["rows"])
    assert answers[0] == answers[1]


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(DataError, match="has no column"):
        predict_published(path)
