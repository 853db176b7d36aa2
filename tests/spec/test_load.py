from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.core.errors import SpecError
from whorl.spec.explain import explain, keys_of
from whorl.spec.load import known_keys, load_recipe, parse_recipe

GOOD: dict[str, Any] = {"name": "mine", "data": [{"source": "notes"}]}


def test_only_name_and_data_are_needed() -> None:
    recipe = parse_recipe(GOOD).recipe
    assert recipe.train.seq_len == "auto"
    assert recipe.compress.max_bpb_increase == 0.01


def test_money_and_hours_of_this_machine_become_seconds() -> None:
    def seconds(**keys: Any) -> float | None:
        return parse_recipe({**GOOD, **keys}).recipe.train_time_s

    assert seconds() is None
    assert seconds(budget={"train_time": "2min"}) == 120
    assert seconds(budget={"device_hours": 0.5}) == 1800
    price = {"usd_per_device_hour": 0.4}
    assert seconds(budget={"usd": 1}, hardware=price) == pytest.approx(9000)  # 2.5 hours


def test_hardware_is_this_machine_unless_a_device_is_named() -> None:
    assert parse_recipe({**GOOD, "hardware": "auto"}) == parse_recipe(GOOD)
    there = {"device": "h100-sxm", "count": 64, "usd_per_device_hour": 2.5}
    recipe = parse_recipe({**GOOD, "hardware": there, "budget": {"usd": 1000}}).recipe
    assert not recipe.hardware.is_here and recipe.hardware.count == 64
    overrides = ["hardware=auto", "budget.usd=null", "budget.device_hours=1"]
    here = parse_recipe({**GOOD, "hardware": there}, overrides=overrides).recipe
    assert here.hardware.is_here and here.train_time_s == 3600


def test_an_override_wins_and_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndata:\n  - {source: notes}\ntrain:\n  seq_len: 128\n")
    loaded = load_recipe(path, ["train.seq_len=512", "data.field=code"])
    assert loaded.recipe.train.seq_len == 512
    assert loaded.recipe.data[0].field == "code"
    assert loaded.origins["train.seq_len"] == "--set"
    assert loaded.origins["name"] == f"{path}:1"
    assert load_recipe(path).origins["train.seq_len"] == f"{path}:5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"lerning_rate": 1}}, "did you mean train.learning_rate"),
        ({"learning_rate": 1}, "did you mean train.learning_rate"),
        ({"serv": {}}, "did you mean serve"),
        ({"train": {"layout": "fsdp"}}, "train.layout: .* not in this version"),
        ({"train": {"lora": {"rnak": 8}}}, "did you mean train.lora.rank"),
        ({"train": {"lora": {"dropout": 1}}}, "train.lora.dropout: out of range"),
        ({"train": {"lora": {"targets": []}}}, "train.lora.targets: wrong value"),
        (
            {"train": {"objective": "distil", "distil": {"teacher": "x"}}},
            "distil needs model.base",
        ),
        ({"train": {"objective": "dpo"}}, "dpo needs model.base: .*objective sft"),
        ({"train": {"objective": "distil"}}, "there is no teacher; .*train.distil.teacher"),
        ({"train": {"dpo": {"beta": 1}}}, "another objective .* set train.objective to dpo"),
        ({"data": [{"source": "a", "share": 0.5}]}, r"data.share must add up to 1.*found: 0.5"),
        ({"data": [{"source": "a", "share": 1}, {"source": "b"}]}, "a share above 0 for each"),
        ({"data": [{"source": "a", "share": 1}, {"source": "b", "share": 0}]}, "above 0"),
        ({"model": {"prune": {"layers": 0.25}}}, "model.prune needs model.base"),
        ({"model": {"base": "x", "prune": {"layers": 1}}}, "model.prune.layers: out of range"),
        ({"model": {"base": "x", "prune": {"width": 0.5}}}, "model.prune.width: unknown"),
        ({"model": {"base": "x", "layers": 2}}, "model.layers beside model.base"),
        ({"model": {"base": "x", "family": "llama"}}, "model.family beside model.base"),
        ({"compress": {"formats": [], "cache": "int8"}}, "compress.formats is empty"),
        ({"compress": {"formats": [], "speculation": "prompt_lookup"}}, "out compress.speculation"),
        ({"compress": {"speculation": "draft"}}, "compress.speculation"),
        ({"evaluate": {"forgetting": "x"}}, "evaluate.forgetting needs model.base"),
        ({"hardware": {"device": "h100", "count": 0}}, "hardware.count"),
        ({"hardware": {"count": 8}}, "hardware.count needs hardware.device"),
        ({"hardware": {"devise": "h100"}}, "did you mean hardware.device"),
        ({"hardware": {"device": "h100", "usd_per_device_hour": -1}}, "usd_per_device_hour"),
        ({"serve": {"ttft_p95": 300}}, r"serve\.ttft_p95: no unit"),
        ({"budget": {"usd": 3}}, "budget.usd needs the price of this machine"),
        ({"budget": {"usd": 3, "device_hours": 2}}, "both say how long"),
        ({"budget": {"device_hours": -2}}, "budget.device_hours"),
        ({"budget": {"usd": 3}, "train": {"steps": 5}}, "both say how long"),
        ({"budget": {"train_time": 4}}, r"budget\.train_time: no unit"),
        ({"budget": {"train_time": "1min", "tokens": "1M"}}, "both say how long"),
        ({"budget": {"tokens": "1M"}, "train": {"steps": 5}}, "both say how long"),
        ({"name": "../up"}, "name"),
        ({"seed": -1}, "seed"),
        ({"data": []}, "data"),
        ({"data": "notes"}, "data"),
        ({"model": {"layers": "four"}}, "model.layers"),
        ({"compress": "non"}, "compress: wrong value; found: 'non'; expected: keys: formats"),
        ({"compress": {"formats": 8}}, r"a list of int8, int4, such as \[int8\]"),
        ({"compress": {"formats": ["int3"]}}, "formats: wrong .*'int3'; .*list of int8, int4"),
        ({"train": {"compiled": "maybe"}}, "train.compiled: .*'maybe'; expected: true or false or"),
        ({"train": {"precision": "fp16"}}, "train.precision: .*'fp16'; expected: fp32, bf16 or"),
        ({"train": {"optimizer": "moun"}}, "did you mean muon.*do: .*install the package"),
        ({"train": {"objective": "x"}}, "train.objective: there is no objective x.*install"),
        ({"model": {"block": "wrong"}}, "model.block: there is no block wrong.*install"),
        ({"model": {"layers": 0}}, "model.layers: out of range; found: 0; expected: .*from 1 to"),
        ({"model": {"heads": 4, "kv_heads": 3}}, "model.kv_heads does not divide"),
        ({"model": {"head_dim": 7}}, "model.head_dim is odd.*use 8"),
        ({"data": [{"source": "a", "text_kye": "b"}]}, "did you mean data.text_key"),
        ({"data": [{"source": "a", "text_kye": "b"}, {"source": "b"}]}, "mean data.0.text_key"),
        ({"compress": {"max_bpb_increase": "300%"}}, "max_bpb_increase: out of range"),
    ],
)
def test_errors_name_the_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_recipe({**GOOD, **change})
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from(sorted(known_keys())),
)
def test_any_value_anywhere_is_taken_or_refused_clearly(value: Any, key: str) -> None:
    raw: dict[str, Any] = {"name": "mine", "data": [{"source": "notes"}]}
    here = raw
    *parents, last = key.split(".")
    if parents[:1] == ["data"]:
        here = raw["data"][0]
        parents = []
    for parent in parents:
        here = here.setdefault(parent, {})
    here[last] = value
    try:
        parse_recipe(raw)
    except SpecError as error:
        assert "\n" not in str(error)


def test_explain_says_where_a_value_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndata: [{source: notes}]\nbudget: {train_time: 4min}\n")
    loaded = load_recipe(path)
    found = explain(loaded, "model.width", {"model.width": 256}, {"model.width": "the law"})
    assert (found.given, found.origin, found.resolved, found.reason) == (
        "auto",
        "default",
        256,
        "the law",
    )
    assert explain(loaded, "budget.train_time", {}, {}).origin == f"{path}:3"
    with pytest.raises(SpecError, match=r"did you mean model\.width"):
        explain(loaded, "model.widht", {}, {})
    for key in known_keys():
        assert explain(loaded, key, {}, {}).description, key


def test_every_value_that_is_explained_may_be_written(tmp_path: Path) -> None:
    """What is shown of a key, put into a recipe, means the same."""
    path = tmp_path / "mine.yaml"
    words = "name: mine\ndata: [{source: notes}]\nbudget: {train_time: 4min}\n"
    path.write_text(f"{words}serve: {{ttft_p95: 300ms, max_wait: 1min}}\n")
    loaded = load_recipe(path)
    found = explain(loaded, "serve.max_wait", {"serve.max_wait": 60.0}, {})
    assert found.given == found.resolved == "60.0s"
    for key in keys_of(loaded.recipe):
        found = explain(loaded, key, {}, {})
        given = found.given
        assert found.resolved is None, f"{key}: nothing was resolved"
        if given is not None:  # of a group left out no key may be written alone
            again = load_recipe(path, [f"{key}={json.dumps(given)}"])
            assert again.recipe == loaded.recipe, key
    assert explain(loaded, "data.0", {}, {}).given["source"] == "notes"


TWO: dict[str, Any] = {
    "name": "mine",
    "data": [{"source": "a", "share": 0.5}, {"source": "b", "share": 0.5}],
}


def test_an_override_names_one_source_of_several(tmp_path: Path) -> None:
    recipe = parse_recipe(TWO, overrides=["data.1.share=0.3", "data.0.share=70%"]).recipe
    assert [entry.share for entry in recipe.data] == [0.7, 0.3]
    assert TWO["data"][1]["share"] == 0.5  # what was given is not changed
    path = tmp_path / "two.yaml"
    path.write_text("name: mine\ndata:\n- source: a\n  share: 50%\n- source: b\n  share: 40%\n")
    loaded = load_recipe(path, ["data.1.share=50%", "data.0.options.text_key=body"])
    assert loaded.origins["data.0.share"] == f"{path}:4"
    assert loaded.origins["data.1.share"] == "--set"
    assert explain(loaded, "data.1.share", {}, {}).given == 0.5
    assert explain(loaded, "data.0.options", {}, {}).given == {"text_key": "body"}
    assert set(keys_of(loaded.recipe)) >= {"data.0.source", "data.1.source", "seed"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.options.text_key=b", r"data has 2 items.*data\.0 to data\.1.*data\.0\.options"),
        ("data.text_key=b", r"data has 2 items.*such as --set data\.0\.text_key=b"),
        ("data.text_kye=b", r"did you mean data\.0\.text_key"),
        ("data.share=0.5", r"data has 2 items.*--set data\.0\.share=0\.5"),
        ("data.2.share=0.5", "there is no such key.*counted from 0"),
        ("data.-1.share=0.5", "unknown key"),
        ("data.0=b", "there is no such key"),
        ("data.0.shar=1", r"did you mean data\.0\.share"),
        ("train.stepz=1", r"\(--set\): unknown key.*did you mean train\.steps"),
        ("=5", "key=value"),
        (".=5", "key=value"),
        ("steps", "key=value"),
        ("", "key=value"),
        ("compress.formats=[int8", "not YAML"),
    ],
)
def test_overrides_that_name_nothing(override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_recipe(TWO, overrides=[override])
    assert len(str(caught.value).splitlines()) == 1


def test_an_override_takes_texts_and_lists_as_they_are() -> None:
    def given(override: str) -> Any:
        return parse_recipe(GOOD, overrides=[override]).recipe

    for source in ("*.txt", "a: b", "C:\\texts", "no", "#1", "&a", "!x", "a, b", "10:30"):
        assert given(f"data.source={source}").data[0].source == source
    assert given("data.source='[x]'").data[0].source == "[x]"
    assert given("compress.formats=[int8, int4]").compress.formats == ("int8", "int4")
    assert given("compress.formats=[]").compress.formats == ()
    assert given("compress=none").compress.formats == ()


@pytest.mark.parametrize("nothing", ["null", "none", "None", "~", ""])
def test_a_limit_is_taken_out_by_saying_nothing(nothing: str) -> None:
    """A recipe of `whorl new` has a time; --set train.steps says how to take it out."""
    raw = {**GOOD, "budget": {"train_time": "2min"}}
    with pytest.raises(SpecError, match=r"--set budget\.train_time=null"):
        parse_recipe(raw, overrides=["train.steps=30"])
    overrides = ["train.steps=30", f"budget.train_time={nothing}"]
    recipe = parse_recipe(raw, overrides=overrides).recipe
    assert (recipe.train.steps, recipe.budget.train_time) == (30, None)


def test_options_below_a_source_are_the_fields() -> None:
    data = [{"source": "a", "options": {"text_key": "body"}}]
    assert parse_recipe({**GOOD, "data": data}).recipe.data[0].options == {"text_key": "body"}
    override = ("data.options.text_key=title",)
    assert parse_recipe({**GOOD, "data": data}, overrides=override).recipe.data[0].options == {
        "text_key": "title"
    }
    beside = parse_recipe({**GOOD, "data": data}, overrides=("data.text_key=title",))
    assert beside.recipe.data[0].text_key == "title"
    with pytest.raises(SpecError, match=r"data\.textkey: unknown key"):
        parse_recipe({**GOOD, "data": [{"source": "a", "textkey": "body"}]})
