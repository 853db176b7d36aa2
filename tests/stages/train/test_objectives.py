"""What is learned, against TRL's losses and gradients, torch's and transformers'.

Axes: B rows, T tokens of a row, N trained tokens, K ids of a teacher.
"""

from __future__ import annotations

import gc
import shutil
import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.stages.train.teaching import (
    SEQ_LEN,
    in_transformers,
    pair_record,
    pairs_of_answers,
    random_model,
)
from tests.stages.train.work import VOCAB_SIZE, config
from whorl.core.errors import DataError, SpecError
from whorl.core.records import RecordStore
from whorl.core.rows import RowSet
from whorl.model.transformer import Transformer
from whorl.stages.train import session
from whorl.stages.train.batch import Batch, make_batch
from whorl.stages.train.teacher import SaidTable, Teacher
from whorl.stages.train.trainer import Trainer

CPU = torch.device("cpu")
PAIRS = pairs_of_answers(6)
SHORT = [((c[0][-3:], c[1][-3:]), (r[0][-3:], r[1][-3:])) for c, r in PAIRS]


def batch_of(rows: RowSet, micro_batch_rows: int = 4) -> Batch:
    return make_batch(rows, np.arange(rows.num_rows), micro_batch_rows, CPU)


def ours(
    model: Transformer, batch: Batch, **settings: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    trainer = Trainer(model, config(seq_len=SEQ_LEN, batch_tokens=SEQ_LEN, **settings))
    loss = trainer.gradients(batch, trainer._count(batch))
    found = {name: p.grad for name, p in trainer.named.items() if p.grad is not None}
    return loss, found


def check_gradients(found: dict[str, torch.Tensor], theirs: Any) -> None:
    """Each to 1e-4 of its norm; theirs: a model of transformers after backward."""
    named = {name.removeprefix("model."): p.grad for name, p in theirs.named_parameters()}
    assert found.keys() <= named.keys() and len(found) > 10
    for name, gradient in found.items():
        assert (gradient - named[name]).norm() < 1e-4 * named[name].norm(), name


def padded(documents: list[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids, attended, answered), each [documents, longest]."""
    longest = max(len(ids) for ids, _ in documents)
    ids, attended, answered = (
        torch.zeros(len(documents), longest, dtype=torch.long) for _ in "iaa"
    )
    for row, (of, mask) in enumerate(documents):
        ids[row, : len(of)] = torch.from_numpy(of)
        attended[row, : len(of)] = 1
        answered[row, : len(of)] = torch.from_numpy(mask)
    return ids, attended, answered


def by_trl(policy: Any, reference: Any, loss_type: str, beta: float) -> torch.Tensor:
    """The loss of TRL's own trainer over PAIRS; it is not built, only its method is run."""
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    for model in (policy, reference):
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    documents = [pair[0] for pair in PAIRS] + [pair[1] for pair in PAIRS]
    ids, attended, answered = padded(documents)
    same = SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x, device=CPU)
    trainer = SimpleNamespace(
        model=policy,
        ref_model=reference,
        accelerator=same,
        aux_loss_enabled=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        ld_alpha=None,
        precompute_ref_logps=False,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"input_ids": ids, "attention_mask": attended, "completion_mask": answered}
    loss: torch.Tensor = DPOTrainer._compute_loss(trainer, policy, inputs, False)  # type: ignore[arg-type]
    return loss


@pytest.mark.parametrize(("normalised", "loss_type"), [(False, "sigmoid"), (True, "sigmoid_norm")])
def test_dpo_is_trl_s(normalised: bool, loss_type: str, isolated_home: Path) -> None:
    """Loss and every gradient to 1e-4, of a model that is not the reference."""
    from whorl.stages.train.objectives.dpo import Dpo

    rows = RowSet.open(pair_record(RecordStore(isolated_home, "tiny"), PAIRS))
    model, first = random_model(0), random_model(1)
    settings = {"objective": "dpo", "dpo": {"beta": 0.3, "length_normalised": normalised}}
    theirs, reference = in_transformers(model), in_transformers(first)
    with warnings.catch_warnings(action="ignore"):
        loss = by_trl(theirs, reference, loss_type, 0.3)
        loss.backward()
    made = config(seq_len=SEQ_LEN, batch_tokens=SEQ_LEN, **settings)
    trainer = Trainer(model, made)
    assert made.dpo is not None
    trainer.objective = Dpo(made.dpo, first.requires_grad_(False))
    batch = batch_of(rows)
    assert batch.num_pairs == len(PAIRS)
    found = trainer.gradients(batch, batch.num_pairs)
    assert abs(found - 0.6931) > 0.01  # the models differ
    assert found == pytest.approx(float(loss.detach()), rel=1e-4)
    check_gradients({n: p.grad for n, p in trainer.named.items() if p.grad is not None}, theirs)


def test_dpo_begins_at_ln_2_and_packing_changes_nothing(isolated_home: Path) -> None:
    """The reference is a copy of the first weights; several pairs in a row are as one in each."""
    store = RecordStore(isolated_home, "tiny")
    results = []
    for per_row in (1, 2, 3):
        for micro_batch_rows in (1, 4):
            batch = batch_of(
                RowSet.open(pair_record(store, SHORT, per_row=per_row)), micro_batch_rows
            )
            assert batch.num_pairs == len(PAIRS)
            results.append(ours(random_model(), batch, objective="dpo"))
    for loss, gradients in results:
        assert loss == pytest.approx(np.log(2), rel=1e-6)
        for name, gradient in gradients.items():
            assert (gradient - results[0][1][name]).norm() < 1e-4 * gradient.norm()


def test_rows_of_no_pairs_are_refused(isolated_home: Path) -> None:
    store = RecordStore(isolated_home, "tiny")
    untrained = (PAIRS[0][0], (PAIRS[0][1][0], np.zeros_like(PAIRS[0][1][1])))
    rows = RowSet.open(pair_record(store, [untrained]))
    with pytest.raises(DataError, match="an answer without a trained token"):
        ours(random_model(), batch_of(rows), objective="dpo")
    batch = batch_of(RowSet.open(pair_record(store, SHORT[:2], per_row=2)))
    (micro,) = batch.micro_batches
    assert micro.segments.lengths is not None
    first, second, *rest = micro.segments.lengths[0]
    odd = replace(micro.segments, lengths=((first, second, sum(rest)),))
    batch = replace(batch, micro_batches=(replace(micro, segments=odd),))
    with pytest.raises(DataError, match="a trained document without another beside it"):
        ours(random_model(), batch, objective="dpo")


def test_sft_is_transformers_loss_of_the_answers(isolated_home: Path) -> None:
    """Loss and gradients to 1e-4, documents packed in rows against one in each."""
    rows = RowSet.open(pair_record(RecordStore(isolated_home, "tiny"), PAIRS))
    model = random_model()
    theirs = in_transformers(model)
    ids, attended, answered = padded([document for pair in PAIRS for document in pair])
    labels = ids.masked_fill(answered == 0, -100)
    loss = theirs(input_ids=ids, attention_mask=attended, labels=labels).loss
    loss.backward()
    found, gradients = ours(model, batch_of(rows), objective="sft")
    assert found == pytest.approx(float(loss.detach()), rel=1e-4)
    check_gradients(gradients, theirs)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distil_of_all_ids_is_torch_s_divergence(
    temperature: float, isolated_home: Path, tmp_path: Path
) -> None:
    """With every id stored: t² KL of the flattened distributions, by torch and TRL's function."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    store = RecordStore(isolated_home, "tiny")
    model, teacher = random_model(0), random_model(1)
    rows = RowSet.open(pair_record(store, PAIRS))
    taught = Teacher(teacher, VOCAB_SIZE, SaidTable(tmp_path)).beside(batch_of(rows))
    keys = {"teacher": "it", "temperature": temperature}
    loss, gradients = ours(model, taught, objective="distil", distil=keys)
    student, other = in_transformers(model), in_transformers(teacher)
    ids, attended, answered = padded([document for pair in PAIRS for document in pair])
    places = answered[:, 1:].bool()
    logits = student(input_ids=ids, attention_mask=attended).logits[:, :-1][places]
    with torch.no_grad():
        wanted = other(input_ids=ids, attention_mask=attended).logits[:, :-1][places]
    scores = [torch.log_softmax(item / temperature, dim=-1) for item in (logits, wanted)]
    divergence = functional.kl_div(*scores, log_target=True, reduction="batchmean")
    expected = divergence * temperature**2
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=2e-3)  # stored in float16
    named = {n.removeprefix("model."): p.grad for n, p in student.named_parameters()}
    for name, gradient in gradients.items():
        assert (gradient - named[name]).norm() < 1e-2 * named[name].norm(), name
    hidden = student.model(input_ids=ids, attention_mask=attended).last_hidden_state[:, :-1][places]
    theirs = other.model(input_ids=ids, attention_mask=attended).last_hidden_state[:, :-1][places]
    heads = student.lm_head.weight, other.lm_head.weight
    by_trl, _ = ChunkedDivergenceFunction.apply(
        hidden, heads[0], None, theirs, heads[1], None, 0.0, temperature, 1.0, None, 1.0, None
    )
    assert float(by_trl.detach().mean()) * temperature**2 == pytest.approx(
        float(expected.detach()), rel=1e-4
    )


def test_distil_of_few_ids_counts_the_rest_as_one(isolated_home: Path, tmp_path: Path) -> None:
    """Against sums over the vocabulary done one id at a time, in float64."""
    store = RecordStore(isolated_home, "tiny")
    model, teacher = random_model(0), random_model(1)
    rows = RowSet.open(pair_record(store, SHORT[:2], per_row=2))
    taught = Teacher(teacher, 5, SaidTable(tmp_path)).beside(batch_of(rows))
    distil = {"objective": "distil", "distil": {"teacher": "it"}}
    loss, _ = ours(model, taught, **distil)
    ids, attended, answered = padded([document for pair in SHORT[:2] for document in pair])
    places = answered[:, 1:].bool()
    with torch.no_grad():
        both = [
            in_transformers(item)(input_ids=ids, attention_mask=attended).logits[:, :-1][places]
            for item in (model, teacher)
        ]
    total = 0.0
    for own, wanted in zip(*[item.double().softmax(-1).tolist() for item in both], strict=True):
        best = sorted(range(VOCAB_SIZE), key=lambda i: -wanted[i])[:5]
        outcomes = [(wanted[i], own[i]) for i in best]
        outcomes.append((1 - sum(q for q, _ in outcomes), 1 - sum(p for _, p in outcomes)))
        total += sum(q * np.log(q / p) for q, p in outcomes)
    assert loss == pytest.approx(total / int(places.sum()), rel=2e-3)
    zero, gradients = ours(teacher, taught, **distil)
    assert 0 <= zero < 1e-4 * loss
    assert all(gradient.norm() < 0.05 for gradient in gradients.values())


@pytest.mark.parametrize("has_room", [True, False])
def test_what_a_teacher_said_is_kept_outside_memory(
    has_room: bool, isolated_home: Path, tmp_path: Path
) -> None:
    """Read once, or again where no room is left: the same, by transformers; no tensor stays."""
    teacher, table = random_model(1), SaidTable(tmp_path)
    table.room *= has_room
    rows = RowSet.open(pair_record(RecordStore(isolated_home, "tiny"), PAIRS))
    asked, before = Teacher(teacher, 7, table), tensors_alive()
    reads: list[int] = []
    teacher.register_forward_hook(lambda *args: reads.append(1))
    first, second = (asked.beside(batch_of(rows)).micro_batches for _ in range(2))
    assert len(reads) == (1 if has_room else 2) * rows.num_rows
    theirs = in_transformers(teacher)
    for one, again in zip(first, second, strict=True):
        assert one.taught is not None and again.taught is not None
        assert torch.equal(one.taught.ids_NK, again.taught.ids_NK)
        assert torch.equal(one.taught.logprobs_NK, again.taught.logprobs_NK)
    ids = first[0].ids_BT[:1, : first[0].segments.lengths[0][0]]  # the first document of a row
    trained = first[0].targets_BT[0, : ids.shape[1]] >= 0
    with torch.no_grad():
        best = torch.log_softmax(theirs(ids).logits[0], dim=-1)[trained].topk(7)
    count = int(trained.sum())
    assert torch.equal(first[0].taught.ids_NK[:count], best.indices)
    assert torch.allclose(first[0].taught.logprobs_NK[:count], best.values, atol=2e-3)
    del first, second, one, again, ids, trained, best, theirs
    assert tensors_alive() == before
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_tables_of_all_ranks_leave_half_of_the_disk(
    isolated_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of four ranks has one for the rows and one for the held-out ones."""
    disk = SimpleNamespace(free=8 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk)
    monkeypatch.setattr(session, "load_teacher", lambda *rest: random_model())
    prepared = pair_record(RecordStore(isolated_home, "tiny"), PAIRS)
    taught = config(seq_len=SEQ_LEN, objective="distil", distil={"teacher": "it"})
    asked = [
        each
        for _ in range(4)
        for each in session._teachers(
            SimpleNamespace(folder=Path), prepared, taught, CPU, tmp_path, 4
        )
    ]
    assert len(asked) == 8 and sum(each.said.room for each in asked) == disk.free // 2


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


def test_distil_without_a_teacher_is_refused(isolated_home: Path) -> None:
    rows = RowSet.open(pair_record(RecordStore(isolated_home, "tiny"), PAIRS))
    with pytest.raises(SpecError, match=r"give train.distil.teacher"):
        ours(random_model(), batch_of(rows), objective="distil", distil={"teacher": "it"})
    with pytest.raises(ValueError, match="there is no teacher"):
        config(objective="distil")
