"""Counts of public models against the figures their authors and model cards publish."""

from __future__ import annotations

import pytest

from whorl.arch.known_models import known_model, known_models, model_names, stored_format
from whorl.arch.shape_counts import count_shape, kv_bytes_per_token
from whorl.core.errors import SpecError

EXACT = [model for model in known_models().values() if model.parameters is not None]
ROUNDED = [model for model in known_models().values() if model.parameters is None]
MIXTURES = [model for model in known_models().values() if model.active_rounded is not None]


def test_at_least_twenty_five_models_have_an_exact_published_count() -> None:
    assert len(EXACT) >= 100 and len(known_models()) >= 170


@pytest.mark.parametrize("model", EXACT, ids=lambda model: model.name)
def test_total_is_the_published_count(model) -> None:
    assert count_shape(model.shape).total == model.parameters


@pytest.mark.parametrize("model", ROUNDED, ids=lambda model: model.name)
def test_total_is_near_the_published_figure(model) -> None:
    # the names of GPT-3 125M, 350M and others are rounded to two digits
    found = count_shape(model.shape).total / 1e9
    assert found == pytest.approx(model.parameters_rounded, rel=0.025)


@pytest.mark.parametrize("model", MIXTURES, ids=lambda model: model.name)
def test_active_is_the_published_figure(model) -> None:
    counts = count_shape(model.shape)
    active = counts.active
    if model.name.startswith(("gpt-oss", "deepseek-v2-lite")):
        active -= counts.embedding  # the two whose authors leave the input embedding out
    if model.name.startswith("glm-4.5"):
        active -= counts.embedding + counts.head  # and the head
    assert active / 1e9 == pytest.approx(model.active_rounded, rel=0.03)


def test_gpt_oss_counts_agree_to_the_digits_of_its_model_card() -> None:
    # arXiv 2508.10925, table 1: component, 120b, 20b in billions
    expected = {"120b": (114.71, 0.96, 1.16, 5.13, 116.83), "20b": (19.12, 0.64, 1.16, 3.61, 20.91)}
    for size, figures in expected.items():
        counts = count_shape(known_model(f"gpt-oss-{size}"))
        found = (
            counts.experts + counts.routers,
            counts.attention,
            counts.embedding + counts.head,
            counts.active - counts.embedding,
            counts.total,
        )
        assert tuple(round(number / 1e9, 2) for number in found) == figures


def test_moonlight_counts_without_the_two_tables() -> None:
    # arXiv 2502.16982, table 3: 15.29B and 2.24B
    counts = count_shape(known_model("moonlight-16b-a3b"))
    assert round(counts.non_embedding / 1e9, 2) == 15.29
    assert round((counts.active - counts.embedding - counts.head) / 1e9, 2) == 2.24


def test_the_prediction_layer_of_deepseek_v3_is_counted_apart() -> None:
    # README_WEIGHTS of DeepSeek-V3: 11.5B unique parameters beside the shared tables of 0.9B;
    # 685B of 14B more than 671B when the tables are stored again
    from dataclasses import replace

    counts = count_shape(replace(known_model("deepseek-v3"), predicted_tokens=1))
    assert counts.other / 1e9 == pytest.approx(11.5, rel=0.01)
    assert round((counts.total + counts.embedding + counts.head) / 1e9) in (684, 685)
    assert counts.active == count_shape(known_model("deepseek-v3")).active


def test_cache_of_deepseek_v2_is_what_its_paper_saves() -> None:
    # arXiv 2405.04434, abstract: 93.3% less than DeepSeek 67B; section 2.1.4: like GQA with 2.25
    # groups of heads
    shape = known_model("deepseek-v2")
    cache = kv_bytes_per_token(shape, 1)
    assert cache == shape.layers * 2.25 * 2 * 128
    assert kv_bytes_per_token(known_model("llama-3.1-405b"), 2) == 516_096  # 504 KiB


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("llama3-8b", "llama-3-8b"),
        ("Llama3.1_405B", "llama-3.1-405b"),
        ("meta-llama/Meta-Llama-3-70B-Instruct", "llama-3-70b"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
        ("deepseek-ai/DeepSeek-V3-Base", "deepseek-v3"),
        ("mistralai/Mistral-7B-Instruct-v0.1", "mistral-7b-v0.1"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
        ("GPT2", "gpt2"),
        ("microsoft/phi-1_5", "phi-1.5"),
    ],
)
def test_spellings(spelling: str, name: str) -> None:
    assert known_model(spelling).name == name


def test_every_name_leads_to_its_own_model_and_no_two_collide() -> None:
    for model in known_models().values():
        for spelling in (model.name, *model.aliases, model.name.upper().replace("-", "_")):
            assert known_model(spelling).name == model.name
    assert len(set(model_names())) == len(model_names())


@pytest.mark.parametrize("model", known_models().values(), ids=lambda model: model.name)
def test_every_fact_has_a_source(model) -> None:
    assert "https://" in model.source


@pytest.mark.parametrize("name", ["llama-3.1-504b", "quen3-8b", "", "/", "gpt-oss", "zzz\n\0"])
def test_unknown_names_say_what_is_near(name: str) -> None:
    with pytest.raises(SpecError, match="unknown model") as caught:
        known_model(name)
    if "quen" in name:
        assert "qwen3-8b" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"), [("MiniMaxAI/MiniMax-M2.7", "minimax-m2"), ("Llama-3.1-9B", "llama-3.1-8b")]
)
def test_unknown_names_are_answered_by_their_family(name: str, near: str) -> None:
    with pytest.raises(SpecError, match=f"near it: {near}") as caught:
        known_model(name)
    assert "gemma" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "model", "stored"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b", "int4"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama-3.1-8b", "nf4"),
        ("neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b", "fp8"),
        ("TheBloke/Llama-2-13B-GPTQ", "llama-2-13b", "int4"),
        ("Qwen/Qwen-7B-Chat", "qwen1.5-7b", None),
    ],
)
def test_names_of_stored_variants_mean_their_model(
    name: str, model: str, stored: str | None
) -> None:
    assert known_model(name) == known_model(model)
    assert stored_format(name) == stored
