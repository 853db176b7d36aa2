"""API keys: made, listed and revoked in one file, every change of which a server takes at once.

The file holds no key, only BLAKE3 digests keyed with a salt of each key's own. A key is 256 random
bits, which nobody finds by trying, so that a slow hash would only let strangers keep the server
busy. A key's text names its entry (`whorl-<id>-<secret>`): one digest is computed and compared,
in constant time, whether or not there is such an entry.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from blake3 import blake3
from pydantic import AfterValidator, Field, ValidationError

from whorl.core.digests import read_sealed, write_sealed
from whorl.core.errors import RecordError, SpecError
from whorl.core.frozen import Frozen
from whorl.core.lock import exclusive
from whorl.core.validation import first_problem
from whorl.stages.serve.lines import own_folder

__all__ = [
    "KeyEntry",
    "KeyRing",
    "add_key",
    "keys_file",
    "list_keys",
    "revoke_key",
    "usable_key",
]

FOLDER, FILE = ".serving", "keys.json"
SECRET_BYTES, ID_BYTES = 32, 4
MIN_KEY_CHARS = 16  # of a key that is given
KEY_TEXT = re.compile(r"whorl-([0-9a-f]{8})-([0-9a-f]{64})")
NO_SALT = bytes(32)
MAX_NAME_CHARS, MAX_PATTERNS = 80, 32
LOG = logging.getLogger(__name__)


def _pattern(text: str) -> str:
    if not text or len(text) > 200 or not text.isprintable() or "*" in text[:-1]:
        raise ValueError("expected a name or path, or the beginning of some with * at its end")
    return text


Patterns = Annotated[
    tuple[Annotated[str, AfterValidator(_pattern)], ...],
    Field(min_length=1, max_length=MAX_PATTERNS),
]


class KeyEntry(Frozen):
    """One key, without the key: who has it, and what it may do."""

    key_id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS, description="who has it")
    salt: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    created: str = Field(description="UTC, ISO 8601")
    revoked: str | None = Field(None, description="UTC, ISO 8601; None: it is in use")
    routes: Patterns = Field(("*",), description="paths it may ask, such as /v1/models or /v1/*")
    models: Patterns = Field(("*",), description="ids of models it may use")
    requests_per_min: int | None = Field(None, ge=1, le=10**9)
    tokens_per_min: int | None = Field(None, ge=1, le=10**12, description="prompts and answers")
    max_usd: float | None = Field(None, gt=0, le=1e9, description="that it may cost in all")

    def may_ask(self, path: str) -> bool:
        return _matches(path, self.routes)

    def may_use(self, model: str) -> bool:
        return _matches(model, self.models)


class _KeyFile(Frozen):
    keys: tuple[KeyEntry, ...] = ()


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(
        text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern
        for pattern in patterns
    )


# ------------------------------------------------------------------ the file


def keys_file(home: Path) -> Path:
    return home / FOLDER / FILE


def list_keys(path: Path) -> tuple[KeyEntry, ...]:
    """All of them, revoked ones too, in the order they were made. Raises RecordError if damaged."""
    if not path.exists():
        return ()
    try:
        return _KeyFile.model_validate_json(json.dumps(read_sealed(path))).keys
    except ValidationError as error:
        raise RecordError(f"{path} holds no keys", found=first_problem(error)) from error


def add_key(path: Path, name: str, **limits: Any) -> tuple[KeyEntry, str]:
    """A new entry and the text of its key, which is nowhere else. limits: fields of KeyEntry.

    Raises SpecError for a name that is in use, or a limit that is none.
    """
    secret, salt = secrets.token_hex(SECRET_BYTES), secrets.token_bytes(SECRET_BYTES)
    with _changing(path):
        keys = list_keys(path)
        if any(key.name == name and key.revoked is None for key in keys):
            raise SpecError(
                f"a key of the name {name[:MAX_NAME_CHARS]} is in use",
                do="take another name, so that both work until the old one is revoked",
            )
        taken = {key.key_id for key in keys}
        key_id = next(i for i in iter(lambda: secrets.token_hex(ID_BYTES), "") if i not in taken)
        try:
            entry = KeyEntry(
                key_id=key_id,
                name=name,
                salt=salt.hex(),
                digest=_digest(secret, salt),
                created=_now(),
                **limits,
            )
        except ValidationError as error:
            raise SpecError("the key cannot be made", found=first_problem(error)) from error
        _write(path, (*keys, entry))
    return entry, f"whorl-{key_id}-{secret}"


def revoke_key(path: Path, what: str) -> KeyEntry:
    """The entry of this id or name, revoked. Raises SpecError if there is none in use."""
    with _changing(path):
        keys = list_keys(path)
        found = [key for key in keys if key.revoked is None and what in (key.key_id, key.name)]
        if not found:
            in_use = ", ".join(f"{key.key_id} ({key.name})" for key in keys if key.revoked is None)
            raise SpecError(
                f"there is no key {what[:80]} in use",
                found=in_use or "no keys",
                do="name the id or the name of one that `whorl keys list` shows",
            )
        revoked = found[0].model_copy(update={"revoked": _now()})
        _write(path, [revoked if key is found[0] else key for key in keys])
    return revoked


def _changing(path: Path) -> Any:
    own_folder(path.parent)
    return exclusive(path.parent, "changing keys")


def _write(path: Path, keys: Sequence[KeyEntry]) -> None:
    write_sealed(path, _KeyFile(keys=tuple(keys)).model_dump(mode="json"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _digest(secret: str, salt: bytes) -> str:
    return str(blake3(secret.encode(), key=salt).hexdigest())


# ------------------------------------------------------------------ a server's view of it


class KeyRing:
    """The keys in use. The file is looked at before each answer: a change needs no restart.

    A file that is gone leaves no key; one that is damaged leaves those of before, and is told once.
    """

    def __init__(self, path: Path, tell: Callable[[str], None] = LOG.error) -> None:
        self._path, self._tell = path, tell
        self._seen: tuple[int, int, int] | None = None
        self._keys: Mapping[str, KeyEntry] = {}

    @property
    def keys(self) -> Mapping[str, KeyEntry]:
        """By id."""
        try:
            stat = os.stat(self._path)
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            self._seen, self._keys = None, {}
            return self._keys
        if seen != self._seen:
            self._seen = seen
            try:
                keys = list_keys(self._path)
                self._keys = {key.key_id: key for key in keys if key.revoked is None}
            except RecordError as error:
                self._tell(f"the keys of before stay in use: {error}")
        return self._keys

    def find(self, text: str) -> KeyEntry | None:
        """The entry of a key that was sent; None if it is none in use."""
        match = KEY_TEXT.fullmatch(text)
        key_id, secret = match.groups() if match else ("", "")
        entry = self.keys.get(key_id)
        salt = NO_SALT if entry is None else bytes.fromhex(entry.salt)
        right = NO_SALT.hex() if entry is None else entry.digest
        is_right = hmac.compare_digest(_digest(secret, salt), right)
        return entry if is_right else None


def usable_key(api_key: str | None) -> str:
    """The given key, or a random one. Raises SpecError if the key is too weak to use."""
    if api_key is None:
        return f"whorl-{secrets.token_urlsafe(32)}"
    if len(api_key) < MIN_KEY_CHARS or not all("!" <= char <= "~" for char in api_key):
        raise SpecError(
            "the API key cannot be used",
            found=f"{len(api_key)} characters",
            expected=f"at least {MIN_KEY_CHARS}, all visible ASCII",
            do="leave WHORL_API_KEY and --api-key out to have one made",
        )
    return api_key
