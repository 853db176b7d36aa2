"""Why each value is what it is, in words; and what a person should know before starting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from whorl.arch.shape_counts import count_shape
from whorl.core.units import format_bytes, format_count, format_duration
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan import given, rules
from whorl.stages.plan.candidate import Candidate, Situation

__all__ = ["data_warnings", "reasons_of"]

RATES = [f"train.{name}learning_rate" for name in ("", "embedding_", "head_")]
FAR = 2.0  # octaves from the law's nearest run


def reasons_of(
    situation: Situation,
    candidate: Candidate,
    considered: Sequence[Candidate],
    train: TrainConfig,
) -> dict[str, str]:
    """Dotted key of the recipe -> reason, for every value the recipe left open."""
    reasons = {
        **_model_reasons(situation, candidate, considered),
        **_data_reasons(situation, candidate, considered),
        **_train_reasons(situation, candidate, train),
    }
    recipe = situation.recipe
    open_values = {
        key: reason
        for key, reason in reasons.items()
        if getattr(getattr(recipe, key.partition(".")[0]), key.partition(".")[2]) == "auto"
    }
    return {**open_values, **_share_reasons(situation, candidate)}


def _share_reasons(situation: Situation, candidate: Candidate) -> dict[str, str]:
    """How often each source of a mixture will be seen."""
    data = situation.data
    if not data.is_mixed:
        return {}
    epochs = data.epochs(candidate.tokens, candidate.shape.vocab_size)
    parts = [
        f"{source.field} {source.share or 0:.1%} of the trained tokens, {count:.1f} epochs of it"
        for source, count in zip(data.sources, epochs, strict=True)
    ]
    return {"data.share": "; ".join(parts)}


def _model_reasons(
    situation: Situation, candidate: Candidate, considered: Sequence[Candidate]
) -> dict[str, str]:
    a = candidate.shape
    if situation.base is not None:
        keys = ("layers", "width", "heads", "kv_heads", "head_dim", "ffn_width")
        return {f"model.{key}": f"{situation.base.name} has it" for key in keys}
    size = _size_reason(situation, candidate, considered)
    return {
        "model.width": size,
        "model.layers": f"{size}; width per layer between "
        f"{rules.WIDTH_PER_LAYER[0]} and {rules.WIDTH_PER_LAYER[1]}",
        "model.head_dim": "64 where it divides the width, else 32",
        "model.heads": f"width {a.width} / head_dim {a.attention.head_dim}",
        "model.kv_heads": "as many as heads: so small a cache need not be shared",
        "model.ffn_width": f"{rules.FFN_PER_WIDTH} x width",
    }


def _size_reason(
    situation: Situation, candidate: Candidate, considered: Sequence[Candidate]
) -> str:
    if not situation.data.has_law:
        return (
            f"no law predicts {situation.data.metric}: sized as for text of as many tokens, "
            f"best of {len(considered)}"
        )
    text = (
        f"lowest predicted bits per byte ({candidate.quality:.3f}) of {len(considered)} "
        "combinations that fit time and memory"
    )
    for what, other in (("smaller", 0.5), ("larger", 2.0)):
        near = [
            item
            for item in considered
            if item.shape.vocab_size == candidate.shape.vocab_size
            and 0.6 < item.parameters / (other * candidate.parameters) < 1.7
        ]
        if near:
            best = min(near, key=lambda item: item.quality)
            text += (
                f"; {what} ({format_count(best.parameters)} parameters, "
                f"{best.steps:,} steps): {best.quality:.3f}"
            )
    return text


def _data_reasons(
    situation: Situation, candidate: Candidate, considered: Sequence[Candidate]
) -> dict[str, str]:
    data = situation.data
    vocab_size = candidate.shape.vocab_size
    facts = data.for_vocab(vocab_size)
    if (base := situation.base) is not None:
        of_text = f", {facts.bytes_per_token:.2f} bytes per token" if facts.bytes_per_token else ""
        place = min(len(facts.document_tokens) - 1, int(0.95 * len(facts.document_tokens)))
        return {
            "prepare.vocab_size": f"the tokens of {base.name}{of_text}",
            "train.seq_len": f"19 of 20 documents have at most {facts.document_tokens[place]} "
            f"tokens; longer texts are cut, longer chats are left out",
        }
    if facts.bytes_per_token is None:
        vocabulary = f"{facts.used_ids} ids are used, rounded up"
        rows = f"short documents: the longest of a sample has {facts.document_tokens[-1]} tokens"
    else:
        best: dict[int, float] = {}
        for item in considered:
            size = item.shape.vocab_size
            best[size] = min(best.get(size, item.quality), item.quality)
        others = ", ".join(f"{size:,}: {value:.3f}" for size, value in sorted(best.items()))
        vocabulary = (
            f"{facts.bytes_per_token:.2f} bytes per token; counted as worse below "
            f"{rules.MIN_TOKENS_PER_ID:,} trained tokens for each id; "
            f"best prediction by size {others}"
        )
        rows = f"{rules.SEQ_LEN} tokens did best in minutes on a CPU"
    return {"prepare.vocab_size": vocabulary, "train.seq_len": rows}


def _train_reasons(
    situation: Situation, candidate: Candidate, train: TrainConfig
) -> dict[str, str]:
    rows = candidate.batch_tokens // candidate.seq_len
    reasons = {
        "train.steps": _steps_reason(situation, candidate),
        "train.batch_tokens": f"{rows} rows; near the square root of all tokens, "
        f"within {rules.BATCH_TOKENS_RANGE[0]} to {rules.BATCH_TOKENS_RANGE[1]}",
        "train.micro_batch_rows": f"at most {rules.MAX_MICRO_BATCH_TOKENS} tokens at once, "
        f"shared by {train.lanes} {'lane' if train.lanes == 1 else 'lanes'}",
        "train.optimizer": "Muon reached the loss of AdamW in about half the steps in our runs",
        **dict.fromkeys(RATES, f"best of our runs with {train.optimizer}"),
        "train.warmup_steps": f"{rules.WARMUP_SHARE:.0%} of the steps",
        "train.decay_steps": f"{rules.DECAY_SHARE:.0%} of the steps",
        "train.validate_every_steps": f"{rules.VALIDATIONS} validations in all",
        "train.weight_decay": "nothing gained in runs of minutes",
        **_measured_reasons(situation),
        "train.compiled": _compiled_reason(situation, candidate),
        "train.checkpoint_every_steps": "about every "
        f"{format_duration(train.checkpoint_every_steps * candidate.step_s)}",
    }
    return reasons if situation.base is None else reasons | _base_reasons(train)


def _base_reasons(train: TrainConfig) -> dict[str, str]:
    """What is done otherwise where a base is taught."""
    return {
        "train.micro_batch_rows": f"at most {given.MAX_MICRO_BATCH_TOKENS} tokens at once",
        "train.optimizer": "what open models are made and taught with",
        **dict.fromkeys(RATES, given.RATE_REASON),
        "train.warmup_steps": f"{given.WARMUP_SHARE:.0%} of the steps",
        "train.decay_steps": "from the peak on",
        "train.validate_every_steps": f"{given.VALIDATIONS} validations, and one of the base",
        "train.weight_decay": "few steps of a small rate",
        "train.compiled": "timed on small models only",
    }


def _measured_reasons(situation: Situation) -> dict[str, str]:
    """What calibration tried here, and how long each way took."""
    reasons = {choice.key: choice.reason for choice in situation.machine.calibration.choices}
    return {
        **reasons,
        "train.threads": reasons.get("train.lanes", "all cores"),
        "train.attention_dtype": reasons.get("train.precision", "that of the products"),
    }


def _compiled_reason(situation: Situation, candidate: Candidate) -> str:
    choice = situation.machine.calibration.choice("train.compiled")
    if choice is None:
        least = format_duration(rules.LONG_TRAINING_S)
        return f"not timed: only for a training of {least} or more"
    if choice.settings["compiled"] and not candidate.compiled:
        return f"compiling would take more than it saves here; {choice.reason}"
    return choice.reason


def _steps_reason(situation: Situation, candidate: Candidate) -> str:
    budget = situation.recipe.budget
    unique = situation.data.unique_tokens(candidate.shape.vocab_size)
    epochs = candidate.tokens / unique
    if budget.tokens is not None:
        return f"budget of {format_count(budget.tokens)} tokens / {candidate.batch_tokens:,} a step"
    step = (
        format_duration(candidate.step_s)
        if candidate.step_s >= 1
        else (f"{1000 * candidate.step_s:.0f} ms")
    )
    spent = f"{step} a step, {format_duration(candidate.train_s)} in all"
    spent = "; ".join(filter(None, (spent, situation.own.note)))
    if situation.base is not None and situation.recipe.train_time_s is None and not budget.flops:
        return f"no budget: {epochs:.1f} passes over the data ({spent})"
    if candidate.stopped_by_data:
        return f"{epochs:.1f} passes over the data: more would overfit ({spent})"
    if (time_s := situation.recipe.train_time_s) is not None:
        return f"budget of {format_duration(time_s)}: {spent}, start-up and saves included"
    return f"budget of {format_count(budget.flops or 0)} FLOP; {spent}"


def data_warnings(situation: Situation, candidate: Candidate) -> Iterator[str]:
    """What is unusual about this plan."""
    data, calibration = situation.data, situation.machine.calibration
    if calibration.doubt:
        yield calibration.doubt
    if situation.was_disturbed:
        yield (
            "other work took the cores while a step of the base was rehearsed: times are those of "
            "a quiet machine, by the work its threads did; beside such work training takes longer"
        )
    if situation.unrehearsed:
        by = "from one of another batch" if situation.is_rehearsed else "from steps of small models"
        yield (
            f"the base's step was not rehearsed ({situation.unrehearsed}): time and memory are "
            f"predicted {by}"
        )
    if data.has_law and situation.base is None:
        distance = situation.law.distance(candidate.point)
        if distance > FAR:
            yield (
                f"the predicted quality is an extrapolation: {distance:.1f} octaves from the "
                "nearest run the law was fitted on"
            )
    has_budget = situation.recipe.train_time_s or situation.recipe.budget.flops
    if candidate.stopped_by_data and has_budget:
        unique = data.unique_tokens(candidate.shape.vocab_size)
        yield (
            f"there is little data ({format_count(unique)} tokens"
            + (f", {format_bytes(data.num_bytes)} of text" if data.num_bytes else "")
            + f"): training stops after {candidate.tokens / unique:.1f} passes, in "
            f"{format_duration(candidate.train_s)}; more text gives a better model"
        )
    if data.read_share < 1:
        yield f"sizes are estimated from {data.read_share:.1%} of the data"
    if refused := data.tokens[-1].num_refused:
        sampled = refused + len(data.tokens[-1].document_tokens)
        yield f"{refused} of {sampled} sampled documents could not be encoded"
    parameters = count_shape(candidate.shape)
    if (
        situation.base is None
        and parameters.embedding + parameters.head > 4 * parameters.non_embedding
    ):
        yield "most parameters are embeddings: a smaller prepare.vocab_size may do better"
