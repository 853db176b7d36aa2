"""The figures of a choice, each with a 90% interval; what is counted is exact."""

from __future__ import annotations

from whorl.arch.shape import ModelShape
from whorl.arch.shape_counts import (
    BYTES_PER_ELEMENT,
    cache_bytes_per_token,
    count_shape,
    flops_per_token,
)
from whorl.spec.resolved import TrainConfig
from whorl.stages.plan.candidate import Candidate, Situation, load_of
from whorl.stages.plan.memory import MEMORY_LOW, MEMORY_MARGIN
from whorl.stages.plan.plan import Prediction
from whorl.stages.plan.step_time import time_factor

__all__ = ["predicted_cache", "predictions_of"]


def predictions_of(
    situation: Situation, candidate: Candidate, train: TrainConfig
) -> dict[str, Prediction]:
    """Name -> figure. Units: s, bytes, tokens, FLOP, bits/byte, parameters, passes."""
    a = candidate.shape
    parameters = count_shape(a)
    state = load_of(situation, candidate).state
    unique = situation.data.unique_tokens(a.vocab_size)
    calibration = situation.machine.calibration
    factor = time_factor(calibration, situation.level, situation.is_rehearsed)
    weight_bytes = BYTES_PER_ELEMENT["fp32"] * parameters.total
    return {
        "parameters": Prediction.exact(parameters.total, "parameters"),
        "non_embedding_parameters": Prediction.exact(parameters.non_embedding, "parameters"),
        "train_tokens": Prediction.exact(candidate.tokens, "tokens"),
        "epochs": Prediction(
            value=candidate.tokens / unique, unit="passes", note="before cleaning"
        ),
        **_epochs_of_sources(situation, candidate),
        "train_flops": Prediction.exact(candidate.flops, "FLOP", "causal rows, optimiser excluded"),
        "flops_per_token": Prediction.exact(flops_per_token(a, candidate.seq_len).training, "FLOP"),
        "weight_bytes": Prediction.exact(weight_bytes, "bytes", "in fp32"),
        "gradient_bytes": Prediction.exact(state.gradients, "bytes"),
        "optimizer_bytes": Prediction.exact(state.optimizer_state, "bytes", train.optimizer),
        "kv_cache_bytes_per_token": predicted_cache(a, situation.recipe.compress.cache),
        "step_s": Prediction.within(candidate.step_s, factor, "s", _busy_note(situation)),
        "train_s": Prediction.within(
            candidate.train_s, factor, "s", "with start-up, validations and saves"
        ),
        "peak_bytes": Prediction(
            value=candidate.peak_bytes,
            low=MEMORY_LOW * candidate.peak_bytes,
            high=MEMORY_MARGIN * candidate.peak_bytes,
            unit="bytes",
            note=_with_own(situation, "resident, with the pages of the tokens' file that are read"),
        ),
        "heldout_bpb": _quality(situation, candidate),
    }


def predicted_cache(shape: ModelShape, cache: str) -> Prediction:
    """Bytes of a token's keys and values, in the numbers that the recipe asks for; at most those of
    the export, which stay where compress refuses them."""
    asked, exported = (round(cache_bytes_per_token(shape, each)) for each in (cache, "f32"))
    note = "" if cache == "f32" else f"in {cache}, if compress accepts it"
    return Prediction(value=asked, low=asked, high=exported, unit="bytes", note=note)


def _epochs_of_sources(situation: Situation, candidate: Candidate) -> dict[str, Prediction]:
    """Of each source of a mixture, how often it is seen."""
    data = situation.data
    if not data.is_mixed:
        return {}
    epochs = data.epochs(candidate.tokens, candidate.shape.vocab_size)
    return {
        f"epochs_of_data_{number}": Prediction(value=count, unit="passes", note="before cleaning")
        for number, count in enumerate(epochs)
    }


def _busy_note(situation: Situation) -> str:
    busy = situation.machine.calibration.busy
    note = f"mean of all steps; others used {busy:.0%} of the machine when it was measured"
    return _with_own(situation, note)


def _with_own(situation: Situation, note: str) -> str:
    return "; ".join(filter(None, (note, situation.own.note)))


def _quality(situation: Situation, candidate: Candidate) -> Prediction:
    if (base := situation.base) is not None:
        note = f"no law says how {base.name} takes to this data; evaluate measures it"
        return Prediction(value=None, unit="bits/byte", note=note)
    if not situation.data.has_law:
        return Prediction(
            value=None, unit="bits/byte", note=f"no law predicts {situation.data.metric}"
        )
    return situation.law.predict(candidate.point)
