"""Folders of others: what is read of them, and what is refused before or as it is read."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from whorl.core.errors import DataError, RecordError, SpecError
from whorl.model.hf import check_tensors, load_weights
from whorl.model.hf_source import open_hf_source
from whorl.testing.models import tiny_model_folder

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model without whorl's own files, as others publish it."""
    import shutil

    path = tiny_model_folder(tmp_path / "model", steps=0, layers=1)
    (path / "whorl.json").unlink()
    shutil.rmtree(path / "tokens")
    return path


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(folder: Path, names: list[str], where: dict[str, str] | None = None) -> None:
    """The weights in files of these names, in turn, with an index; where: other entries of it."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {key: names[number % len(names)] for number, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({k: tensors[k] for k, v in places.items() if v == name}, folder / name)
    index = {"metadata": {}, "weight_map": places | (where or {})}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def rewrite_header(folder: Path, edit: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    data = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    value = json.loads(data[8 : 8 + length])
    edit(value)
    head = json.dumps(value).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])


def test_sharded_and_whole_folders_are_read(folder: Path) -> None:
    whole = open_hf_source(folder)
    before = whole.digest
    expected = {k: v.clone() for k, v in load_weights(folder)[0].state_dict().items()}
    assert WEIGHTS in whole.files and "tokenizer.json" in whole.files and not whole.remarks
    shard(folder, ["model-1.safetensors", "model-2.safetensors"])
    source = open_hf_source(folder)
    assert {"model-1.safetensors", "model-2.safetensors"} <= set(source.files)
    assert source.shape == whole.shape and source.digest != before
    found = load_weights(folder)[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_any_changed_file_changes_the_digest(folder: Path) -> None:
    before = open_hf_source(folder).digest
    for name in open_hf_source(folder).files:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data + b" ")
        assert open_hf_source(folder).digest != before, name
        (folder / name).write_bytes(data)
    assert open_hf_source(folder).digest == before


def test_code_is_told_of_and_never_run(folder: Path) -> None:
    change(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (folder / "modeling_evil.py").write_text("raise SystemExit('it was run')\n")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    remarks = " ".join(open_hf_source(folder).remarks)
    assert (
        "auto_map" in remarks and "modeling_evil.py" in remarks and "pytorch_model.bin" in remarks
    )
    load_weights(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_alone_are_refused_with_the_line_that_converts_them(
    folder: Path, name: str
) -> None:
    (folder / WEIGHTS).rename(folder / name)
    with pytest.raises(DataError, match="pickled") as caught:
        open_hf_source(folder)
    assert name in str(caught.value) and "save_pretrained" in str(caught.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("../model.safetensors", "outside its folder"),
        ("/etc/passwd", "outside its folder"),
        ("sub/model.safetensors", "outside its folder"),
        ("evil.bin", "outside its folder"),
        ("absent.safetensors", "cannot be read"),
    ],
)
def test_an_index_that_names_other_files_is_refused(folder: Path, where: str, message: str) -> None:
    shard(folder, ["model-1.safetensors"], {"more": where})
    for read in (open_hf_source, load_weights):
        with pytest.raises(RecordError, match=message):
            read(folder)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_a_map_is_refused(folder: Path, index: str) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text(index)
    with pytest.raises(RecordError):
        open_hf_source(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
@pytest.mark.parametrize("kind", ["link out", "circle", "pipe"])
def test_what_is_no_plain_file_of_the_folder_is_refused(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    outside = folder.parent / f"outside-{name}"
    path.rename(outside)
    if kind == "link out":
        path.symlink_to(outside)
    elif kind == "circle":
        path.symlink_to(path)
    else:
        os.mkfifo(path)
    with pytest.raises(RecordError, match=name):
        open_hf_source(folder)


def test_links_of_the_hubs_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache/snapshots" / ("a" * 40)
    (tmp_path / "cache/blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        blob = path.rename(tmp_path / "cache/blobs" / path.name)
        (snapshot / path.name).symlink_to(blob)
    assert open_hf_source(snapshot).shape.layers == 1
    load_weights(snapshot)


ABSURD = {
    "hidden_size": 10**30,
    "num_hidden_layers": 10**7,
    "vocab_size": -1,
    "num_attention_heads": 0,
    "intermediate_size": 1e400,
    "head_dim": [8],
    "max_position_embeddings": "long",
    "rms_norm_eps": -1,
}


@pytest.mark.parametrize("key", ABSURD)
def test_absurd_numbers_are_refused(folder: Path, key: str) -> None:
    change(folder, **{key: ABSURD[key]})
    with pytest.raises(SpecError, match=key):
        open_hf_source(folder)


def test_many_layers_are_refused_before_they_are_built(folder: Path) -> None:
    change(folder, num_hidden_layers=9999, layer_types=None)
    with pytest.raises(RecordError, match="layers"):
        load_weights(folder)


def test_everything_that_cannot_be_computed_is_said_at_once(folder: Path) -> None:
    change(folder, model_type="phi", partial_rotary_factor=0.5, layer_norm_eps=1e-5)
    with pytest.raises(SpecError, match=r"model_type phi.*layer norms.*bias of the head"):
        open_hf_source(folder)


def test_quantised_folders_are_refused(folder: Path) -> None:
    change(folder, quantization_config={"bits": 4})
    with pytest.raises(RecordError, match="quantised"):
        open_hf_source(folder)


def _huge(value: dict) -> None:  # type: ignore[type-arg]
    value["norm.weight" if "norm.weight" in value else "model.norm.weight"]["shape"] = [2**40]


def _overlap(value: dict) -> None:  # type: ignore[type-arg]
    names = sorted(name for name in value if name != "__metadata__")
    first, second = names[0], next(n for n in names[1:] if value[n]["shape"] == [64])
    value[second]["data_offsets"] = value[first]["data_offsets"]


def _negative(value: dict) -> None:  # type: ignore[type-arg]
    value["model.norm.weight"]["shape"] = [-64]


def _beyond(value: dict) -> None:  # type: ignore[type-arg]
    value["model.norm.weight"]["data_offsets"] = [2**40, 2**40 + 256]


def _kind(value: dict) -> None:  # type: ignore[type-arg]
    value["model.norm.weight"]["dtype"] = "F64"


def _many(value: dict) -> None:  # type: ignore[type-arg]
    value |= {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**5)}


@pytest.mark.parametrize("edit", [_huge, _overlap, _negative, _beyond, _kind, _many])
def test_headers_that_lie_are_refused(
    folder: Path,
    edit: Callable[[dict], None],  # type: ignore[type-arg]
) -> None:
    rewrite_header(folder, edit)
    with pytest.raises(RecordError):
        load_weights(folder)


@pytest.mark.parametrize("length", [2**63, 2**63 - 1, 2**40, 10**8 + 1, 0, 3])
def test_lengths_of_headers_that_lie_are_refused(folder: Path, length: int) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + data[8:])
    with pytest.raises(RecordError, match=WEIGHTS):
        load_weights(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_files_cut_short_are_refused(folder: Path, share: float) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: int(share * len(data))])
    with pytest.raises(RecordError, match=WEIGHTS):
        load_weights(folder)


def test_a_tensor_in_two_files_is_refused(folder: Path) -> None:
    shard(folder, ["model-1.safetensors", "model-2.safetensors"])
    first, second = (load_file(folder / f"model-{n}.safetensors") for n in (1, 2))
    again = next(iter(first))
    save_file(second | {again: first[again] + 1}, folder / "model-2.safetensors")
    with pytest.raises(RecordError, match=again):
        load_weights(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_named_by_their_tensor(folder: Path, number: float) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = number
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    weights = load_weights(folder)[0].state_dict()
    with pytest.raises(RecordError, match=r"layers\.0\.mlp\.up_proj\.weight.*1 of"):
        check_tensors(weights, folder)


def test_other_kinds_of_numbers_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    weights = load_weights(folder)[0].state_dict()
    with pytest.raises(RecordError, match=r"up_proj.*float8"):
        check_tensors(weights, folder)
