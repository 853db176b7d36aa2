"""A first request to try a model with, in the form that it was taught: what `whorl serve` prints.

The routes and forms are those by which the page's rooms ask.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from whorl.codecs.contract import Tokens
from whorl.stages.serve.pictures import ANSWER
from whorl.stages.serve.served import Served
from whorl.stages.serve.tasks import CHATS, LINKS, RECOMMENDATION, tasks_of

__all__ = ["FirstRequest", "first_request"]

MAX_TOKENS, TOP = 32, 3
FILES = {"image/": "image.png", "audio/": "sound.wav"}  # that a person has to put there
PIECE = "%s"  # where the file's base64 is put by printf; curl takes the line breaks out
END = {"codec": "special", "text": ANSWER}  # of a question
CLASSIFIED = ("image", "audio", "text", "token", "tabular")
ASKED_TO_WRITE = ("translation", "image-to-text", "object-detection")


@dataclass(frozen=True)
class FirstRequest:
    """A route, curl's arguments behind its address, and what is piped into curl: for a shell."""

    path: str
    arguments: str = ""
    piped: str = ""

    def command(self, base_url: str, key: str) -> str:
        """key: as a shell reads it."""
        pipe = f"{self.piped} | " if self.piped else ""
        told = f"{pipe}curl --oauth2-bearer {key} {shlex.quote(base_url + self.path)}"
        return f"{told} {self.arguments}".rstrip()


def first_request(served: Served) -> FirstRequest:
    """Of the first thing that the model was taught; a list of models where it is none of these."""
    tokens, name = served.tokens, served.card.name
    task: dict[str, Any] = next(iter(tasks_of(tokens, served.card)), {"task": "", "examples": ()})
    kind, prompt = task["task"], served.card.example_prompt
    body: dict[str, Any]
    if kind == "automatic-speech-recognition":
        form = shlex.join(["-F", f"file=@{FILES['audio/']}", "-F", f"model={name}"])
        return FirstRequest("/v1/audio/transcriptions", form)
    if kind == "text-to-speech":
        body = {"input": prompt or "Hello", "response_format": "wav"}
        return _posted("/v1/audio/speech", name, body, " -o speech.wav")
    if task.get("worlds"):
        return _posted("/v1/play", name, {"steps": 1})
    if kind in (RECOMMENDATION, LINKS):
        body = {"prompt": _asked(task, tokens), "codec": task["answer"], "top": TOP}
        return _posted("/v1/rank", name, body)
    if kind.removesuffix("-classification") in CLASSIFIED:
        body = {"input": _asked(task, tokens)[0], "codec": task["answer"], "top": TOP}
        return _posted("/v1/classify", name, body, file=_file(task, tokens))
    if kind in ASKED_TO_WRITE:
        body = {"prompt": [*_asked(task, tokens), END], "max_tokens": MAX_TOKENS}
        return _posted("/v1/completions", name, body, file=_file(task, tokens))
    if not served.prompts.has_text:
        return FirstRequest("/v1/models")
    was_taught_texts = bool(served.card.tasks) and not task["asked"]  # which go on
    if kind == CHATS and tokens.contract.chat_template is not None and not was_taught_texts:
        said = [{"role": "user", "content": prompt or "Hello"}]
        chat = {"messages": said, "max_tokens": MAX_TOKENS}
        return _posted("/v1/chat/completions", name, chat)
    return _posted("/v1/completions", name, {"prompt": prompt or "The ", "max_tokens": MAX_TOKENS})


def _asked(task: dict[str, Any], tokens: Tokens) -> list[dict[str, str]]:
    """The parts of a held-out question; where there is none, one of each codec that is asked."""
    for example in task["examples"]:
        return list(example["asked"])
    return [_part(codec, tokens) for codec in task["asked"]]


def _part(name: str, tokens: Tokens) -> dict[str, str]:
    codec = tokens.codecs[name]
    if _file_of(codec.media_type):
        return {"codec": name, "data": PIECE}
    if codec.media_type.startswith("text/"):
        return {"codec": name, "text": "Hello"}
    if codec.value_ids == 1:
        return {"codec": name, "text": str(codec.decode([0]))}
    return {"codec": name, "text": "{}"}  # a row without a cell


def _file(task: dict[str, Any], tokens: Tokens) -> str | None:
    """Of what is asked, where it is none that JSON can say."""
    files = (_file_of(tokens.codecs[name].media_type) for name in task["asked"])
    return next(filter(None, files), None)


def _file_of(media_type: str) -> str | None:
    return next((file for start, file in FILES.items() if media_type.startswith(start)), None)


def _posted(
    path: str, model: str, body: dict[str, Any], after: str = "", file: str | None = None
) -> FirstRequest:
    if file is None:
        text = json.dumps({"model": model, **body}, ensure_ascii=False)
        return FirstRequest(path, f"-d {shlex.quote(text)}{after}")
    form = json.dumps({"model": model}, ensure_ascii=False)[:-1].replace("\\", "\\\\")
    form = f"{form.replace('%', '%%')}, {json.dumps(body)[1:]}"
    return FirstRequest(path, f"-d @-{after}", f'printf {shlex.quote(form)} "$(base64 < {file})"')
