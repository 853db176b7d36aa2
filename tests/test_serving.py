"""What a person's word for a model means: names, folders, both of one name, neither."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from whorl.core.errors import BusyError, ResourceError, SpecError, WhorlError
from whorl.core.records import Record, RecordKey, RecordStore
from whorl.core.variants import Variant
from whorl.servable import Servable, find_beside, find_model
from whorl.serving import Address, newer_models, open_model_app, serve_app
from whorl.spec.resolved import ServeConfig
from whorl.stages.improve.registry import register
from whorl.stages.serve.first_request import FirstRequest
from whorl.stages.serve.keys import add_key, keys_file, revoke_key
from whorl.stages.serve.server import running_server
from whorl.stages.serve.sockets import open_socket

pytest.importorskip("torch", reason="needs the extra train")

HF, INT8 = Variant("hf", "f32"), Variant("openvino", "int8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model folder."""
    from whorl.testing.models import tiny_model_folder

    return tiny_model_folder(tmp_path_factory.mktemp("made") / "model", steps=0)


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of the recipe `notes`, registered twice; the working directory is beside it."""
    home = tmp_path / "runs"
    store, key = RecordStore(home, "notes"), RecordKey("train", {})
    with store.write(key) as writer:
        shutil.copytree(made, writer.path / "model")
    for number in ("1", "2"):
        register(home, "notes", {"train": key.digest, "evaluate": number}, [])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return home


def train_record(home: Path) -> Path:
    return next(RecordStore(home, "notes").all("train"))


def found(what: str | Path, home: Path, variant: str | None = None) -> Servable:
    return find_model(str(what), ServeConfig(variant=variant), home)


@pytest.mark.parametrize("what", ["notes", "notes@1", "notes@v2", "notes@01", "notes@v0002"])
@pytest.mark.parametrize("beside", ["nothing", "data", "model", "file"])
def test_a_name_is_the_registered_model_whatever_lies_beside(
    what: str, beside: str, home: Path, made: Path
) -> None:
    place = Path(what)
    if beside == "data":
        place.mkdir()
        (place / "a.txt").write_text("a note")
    elif beside == "model":
        shutil.copytree(made, place)
    elif beside == "file":
        place.write_text("a note")
    model = found(what, home)
    assert (model.model_id, model.variant) == ("notes", None)
    assert model.folder == train_record(home) / "model"
    if beside == "model":
        assert found(f"./{what}", home).folder == place


@pytest.mark.parametrize("ending", ["", "/", "//", "/."])
def test_a_folder_however_it_is_written(ending: str, home: Path, made: Path) -> None:
    for name in ("my model é", "a\nb", "UPPER", "x" * 200, "notes@7", "with.yaml"):
        shutil.copytree(made, name)
        expected = name.replace("\n", "_")
        assert found(f"./{name}{ending}", home).model_id == expected
        assert found(Path(name).absolute(), home).model_id == expected
    assert found("UPPER", home).model_id == "UPPER"  # no such name is registered
    os.symlink("UPPER", "link")
    assert found("link", home).model_id == "UPPER"


def test_here_and_above(home: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, "mine")
    for inside, what in (("mine", "."), ("mine", "./"), ("mine/tokens", "..")):
        with monkeypatch.context() as there:
            there.chdir(inside)
            assert found(what, home).model_id == "mine"


def test_bytes_that_are_not_utf8_make_an_id_that_can_be_sent(home: Path, made: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    shutil.copytree(made, name)
    assert found(name, home).model_id.encode() == b"caf_"


def test_a_record_and_the_folder_in_it_have_the_recipe_s_name(home: Path) -> None:
    record = train_record(home)
    for what in (record, record / "model", f"{record}/", f"{record}/model/"):
        model = found(what, home)
        assert (model.model_id, model.folder.name) == ("notes", "model")
    with pytest.raises(SpecError, match="no variant int8; expected: hf-f32"):
        found(record, home, "int8")
    with pytest.raises(SpecError, match="no variant int8; expected: hf-f32"):
        found("notes", home, "int8")


def test_a_model_that_no_compression_made_is_served_in_the_fastest_form(home: Path) -> None:
    """None: as open_engine chooses; said which, or by which engine, it is that."""
    for what in ("notes", train_record(home)):
        assert found(what, home).variant is None
        assert found(what, home, "hf").variant == HF
        assert find_model(str(what), ServeConfig(engine="torch"), home).variant == HF


def test_a_folder_named_for_what_every_model_has(home: Path, made: Path) -> None:
    for name in ("model", "hf", "hf-f32", "f32"):
        shutil.copytree(made, f"shells/{name}")
        assert found(f"shells/{name}", home).model_id == "shells"


def test_variants_of_a_folder(home: Path, made: Path) -> None:
    shutil.copytree(made, "mine")
    assert found("mine", home).variant is None
    assert found("mine", home, "int8").variant == INT8  # it can be exported
    with pytest.raises(
        SpecError, match=r"no variant int9.*hf-f32.*openvino-int8.*did you mean int8"
    ):
        found("mine", home, "int9")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("notes@9", ["notes@9", "notes@1", "notes@2"]),
        ("notes@", ["notes@1"]),
        ("notes@0", ["notes@1"]),
        ("notes@latest", ["notes@2"]),
        ("notes@1@2", ["notes@2"]),
        ("nots", ["did you mean notes", "whorl models"]),
        ("other", ["whorl models", "model folder"]),
        ("", ["no model"]),
        ("@1", ["no model"]),
        ("../runs/models/notes", ["not a model folder"]),
        ("./nowhere", ["no model ./nowhere"]),
        ("x" * 5000, ["no model xxx"]),
        ("y/" * 3000, ["no model y/"]),
        ("nul\0", ["no model"]),
        ("data", ["no model data"]),
        ("data/a.txt", ["is a file", "a recipe (x.yaml)"]),
        ("./data", ["not a model folder", "whorl.json"]),
        ("foreign", ["config.json without whorl.json"]),
        ("foreign/", ["config.json without whorl.json", "not written by whorl"]),
        ("../runs/notes", ["below it: ../runs/notes/train/"]),
        ("../runs/notes/train/", ["below it: ../runs/notes/train/"]),
        ("..", ["below it: ../here/kept/deep"]),
    ],
)
def test_what_is_no_model_is_refused_with_what_was_meant(
    what: str, words: Sequence[str], home: Path, made: Path
) -> None:
    Path("data").mkdir()
    Path("data/a.txt").write_text("a note")
    Path("foreign").mkdir()
    Path("foreign/config.json").write_text("{}")
    shutil.copytree(made, "kept/deep")
    with pytest.raises(SpecError) as caught:
        found(what, home)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_recipe_or_a_trained_model_of_that_name_is_pointed_at(home: Path) -> None:
    shutil.rmtree(home / "models")
    with pytest.raises(SpecError, match=r"do: whorl serve .*/train/.*/model: it is trained"):
        found("notes", home)
    Path("notes.yaml").write_text("name: notes\n")
    with pytest.raises(SpecError, match=r"do: whorl serve notes\.yaml"):
        found("notes", home)


def test_a_record_without_a_model(home: Path) -> None:
    store, key = RecordStore(home, "notes"), RecordKey("prepare", {})
    with store.write(key) as writer:
        (writer.path / "a.bin").write_bytes(b"a")
    with pytest.raises(SpecError, match="not a model folder"):
        found(store.published(key).path, home)


def test_a_registered_model_whose_records_are_gone(home: Path) -> None:
    shutil.rmtree(Record.load(train_record(home)).path)
    with pytest.raises(WhorlError, match="notes"):
        found("notes@1", home)


def forbidden(key: str) -> object:
    raise AssertionError("the model was opened")


@pytest.mark.parametrize(
    ("config", "key", "error", "word"),
    [
        ({"engine": "foo"}, None, SpecError, "foo"),
        ({}, "short", SpecError, "key"),
        ({}, "", SpecError, "key"),
    ],
)
def test_what_cannot_be_served_is_told_before_the_model_is_opened(
    config: dict[str, str], key: str | None, error: type[WhorlError], word: str
) -> None:
    settings = ServeConfig(port=0, **config)  # type: ignore[arg-type]
    with pytest.raises(error, match=word):
        serve_app(forbidden, settings, lambda address: None, key)  # type: ignore[arg-type]


def test_a_taken_port_is_told_before_the_model_is_opened() -> None:
    with open_socket("127.0.0.1", 0) as taken:
        taken.listen()
        settings = ServeConfig(port=taken.getsockname()[1])
        with pytest.raises(BusyError, match=str(settings.port)):
            serve_app(forbidden, settings, lambda address: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_server_that_others_reach_starts_without_a_key(host: str, home: Path) -> None:
    settings = ServeConfig(port=0, host=host)

    def start() -> str:
        with pytest.raises((AssertionError, WhorlError)) as caught:
            serve_app(forbidden, settings, lambda address: None, None, home)
        return str(caught.value)

    assert "there is no key" in start() and "whorl keys add" in start()
    add_key(keys_file(home), "alice")
    assert "there is no key" not in start()
    revoke_key(keys_file(home), "alice")
    assert "there is no key" in start()


def test_a_newer_version_is_opened_once(home: Path) -> None:
    now = found("notes", home)
    look = newer_models("notes", ServeConfig(), home, now)
    assert now.version == 2 and look() is None
    register(home, "notes", {"train": Record.load(train_record(home)).digest, "evaluate": "3"}, [])
    newer = look()
    assert newer is not None and look() is None
    assert (newer.card.version, newer.card.name) == (3, "notes")
    assert newer.card.promise is not None
    assert newer.card.promise.basis == "predicted"  # the one before is being asked meanwhile
    newer.close()


def test_without_a_newer_version_nothing_is_chosen_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which variant keeps the targets is measured: it must not change under the load."""
    now = found("notes", home)
    look = newer_models("notes", ServeConfig(users=2), home, now)
    monkeypatch.setattr("whorl.serving.find_model", forbidden)
    assert look() is None


def test_a_newer_version_that_is_damaged_is_told_once(home: Path) -> None:
    look = newer_models("notes", ServeConfig(), home, found("notes", home))
    register(home, "notes", {"train": "0" * 32}, [])
    with pytest.raises(WhorlError):
        look()
    assert look() is None


@pytest.mark.parametrize("key", ["key-'\"$`&", None])
@pytest.mark.parametrize("prompt", ['It\'s "so"\n\\ $HOME `x` é', "The ", None])
def test_the_printed_command_is_read_by_a_shell_as_it_is_meant(
    prompt: str | None, key: str | None
) -> None:
    body = json.dumps({"model": "my model é", "prompt": prompt}, ensure_ascii=False)
    first = FirstRequest("/v1/models")
    if prompt is not None:
        first = FirstRequest("/v1/completions", f"-d {shlex.quote(body)}")
    address = Address("http://[::1]:80", "", key, "my model é", first)
    shell = subprocess.run(
        ["sh", "-c", f"curl() {{ printf '%s\\0' \"$@\"; }}; {address.curl}"],
        capture_output=True,
        env={"WHORL_API_KEY": "given $(key)"},
    )
    arguments = shell.stdout.decode().split("\0")[:-1]
    assert arguments[:2] == ["--oauth2-bearer", key or "given $(key)"]
    if prompt is None:
        assert arguments[2:] == ["http://[::1]:80/v1/models"]
    else:
        assert arguments[2:4] == ["http://[::1]:80/v1/completions", "-d"]
        assert arguments[4] == body


def test_what_is_served_beside_has_a_name_of_its_own(home: Path, made: Path) -> None:
    model = found("notes", home)

    def beside(word: str, what: str = "notes") -> Servable:
        return find_beside(word, what, found(what, home), ServeConfig(), home)

    older = beside("@1")
    assert (older.model_id, older.version) == ("notes@1", 1)
    assert beside("notes@1").model_id == "notes@1"
    assert beside("@2", "notes@1").model_id == "notes@2"
    first = found("notes", home, "hf")
    assert find_beside("@1", "notes", first, ServeConfig(variant="hf"), home) == older
    other = beside(str(made))
    assert (other.folder, other.version) == (made, 0) and other.model_id != "notes"
    if model.variant is None:  # by OpenVINO, which is installed
        assert (beside("hf").model_id, beside("hf").variant) == ("notes:hf-f32", HF)
    for word, told in {
        "@2": "what is served already",
        "notes": "what is served already",
        "@9": "no model notes@9",
        "int5": r"no variant int5; expected: a variant \(hf-f32\), another",
        "./nothing": "no model ./nothing",
    }.items():
        with pytest.raises(SpecError, match=told):
            beside(word)


def test_two_that_may_not_fit_into_memory_are_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whorl.wiring import promise

    first, config = found("notes", home), ServeConfig(port=0, max_running=1)
    second = find_beside("@1", "notes", first, config, home)
    alone = promise.predict_folder(first.folder, first.variant, config).memory_bytes
    assert promise.check_memory([first.named, second.named], config) == 2 * alone
    facts = promise.machine_facts()
    small = facts.model_copy(update={"memory_bytes": 2 * alone - 1})
    monkeypatch.setattr(promise, "machine_facts", lambda: small)
    with pytest.raises(ResourceError, match="notes beside notes@1 may not fit into memory"):
        open_model_app(first, config, home=home, beside=second)
    monkeypatch.setattr(promise, "open_promised", lambda *rest: pytest.fail("opened"))
    with pytest.raises(pytest.fail.Exception):  # one alone is not asked for its memory
        open_model_app(first, config, home=home)


def test_two_variants_of_one_model_answer_alike(home: Path) -> None:
    """By OpenVINO and by torch, of the same numbers in 32 bits."""
    pytest.importorskip("openvino_genai")
    model, config = found("notes", home), ServeConfig(port=0, max_running=1)
    second = find_beside("hf", "notes", model, config, home)
    app, close = open_model_app(model, config, "k" * 20, home=home, beside=second)
    headers = {"Authorization": "Bearer " + "k" * 20}
    try:
        with (
            running_server(app, config) as base_url,
            httpx.Client(base_url=base_url, headers=headers, trust_env=False, timeout=60) as client,
        ):
            models = client.get("/v1/models").json()["data"]
            asked = {"prompt": "The shell", "max_tokens": 8, "temperature": 0}
            told = [
                client.post("/v1/completions", json={"model": each["id"], **asked}).json()
                for each in models
            ]
    finally:
        close()
    assert [each["id"] for each in models] == ["notes", "notes:hf-f32"]
    assert [each["engine"] for each in models] == ["openvino", "torch"]
    assert told[0]["choices"][0]["text"] == told[1]["choices"][0]["text"]
    assert models[1]["promise"]["basis"] == "predicted"
