from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whorl.core.errors import SpecError
from whorl.spec.explain import explain
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
        ({"train": {"lora": {"rank": 8}}}, "train.lora: .* not in this version"),
        ({"train": {"objective": "dpo"}}, "objective=dpo: .* not in this version"),
        ({"data": [{"source": "a", "share": 0.5}]}, r"data.share must add up to 1.*\[0.5\]"),
        ({"data": [{"source": "a", "share": 1}, {"source": "b"}]}, "a share above 0 for each"),
        ({"data": [{"source": "a", "share": 1}, {"source": "b", "share": 0}]}, "above 0"),
        ({"model": {"base": "x"}}, "model.base: .* not in this version"),
        ({"hardware": {"device": "h100", "count": 0}}, "hardware.count"),
        ({"hardware": {"count": 8}}, "hardware.count needs hardware.device"),
        ({"hardware": {"devise": "h100"}}, "did you mean hardware.device"),
        ({"hardware": {"device": "h100", "usd_per_device_hour": -1}}, "usd_per_device_hour"),
        ({"serve": {"ttft_p95": "300ms"}}, "serve.ttft_p95: .* not in this version"),
        ({"budget": {"usd": 3}}, "budget.usd needs the price of this machine"),
        ({"budget": {"usd": 3, "device_hours": 2}}, "several limits"),
        ({"budget": {"device_hours": -2}}, "budget.device_hours"),
        ({"budget": {"usd": 3}, "train": {"steps": 5}}, "both say how long"),
        ({"budget": {"train_time": 4}}, "budget.train_time has no known unit"),
        ({"budget": {"train_time": "1min", "tokens": "1M"}}, "several limits"),
        ({"budget": {"tokens": "1M"}, "train": {"steps": 5}}, "both say how long"),
        ({"name": "../up"}, "name"),
        ({"seed": -1}, "seed"),
        ({"data": []}, "data"),
        ({"data": "notes"}, "data"),
        ({"model": {"layers": "four"}}, "model.layers"),
        ({"compress": {"max_bpb_increase": "300%"}}, "more than 100%"),
    ],
)
def test_errors_name_the_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_recipe({**GOOD, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not YAML"),
        ("- a\n", "not a recipe"),
        ("", "not a recipe"),
        ("name: a\nname: b\ndata: [{source: x}]\n", "repeats the key name"),
        ("name: !!python/object/apply:os.system ['true']\n", "YAML tag"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply|not YAML|unknown key"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        load_recipe(path)


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="whorl new"):
        load_recipe(tmp_path / "none.yaml")


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
