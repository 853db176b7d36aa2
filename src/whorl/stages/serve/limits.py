"""What each key may take: requests and tokens of any 60 seconds, and what it may cost in all.

A request is counted with the tokens that it may come to before it begins, and corrected when it
ends: many at once cannot take more than one after another.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from whorl.core.digests import read_sealed, write_sealed
from whorl.core.errors import RecordError, WhorlError
from whorl.core.ports import Grammar
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.ask import Ask
from whorl.stages.serve.errors import ApiError, invalid
from whorl.stages.serve.keys import KeyEntry
from whorl.stages.serve.lines import own_folder

__all__ = [
    "NOBODY",
    "Account",
    "Caller",
    "Ledger",
    "Minute",
    "Spending",
    "Used",
    "check_sizes",
    "max_time_of",
]

WINDOW_S = 60.0
LOCK_S = 2.0  # for another server that writes
LOG = logging.getLogger(__name__)


class Minute:
    """Amounts of the last 60 seconds, at most `limit` together."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._entries: deque[list[float]] = deque()  # [when, amount], oldest first

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until so much more has room: 0, now; infinite, never."""
        while self._entries and self._entries[0][0] <= now_s - WINDOW_S:
            self._entries.popleft()
        if amount > self.limit:
            return math.inf
        excess = sum(entry[1] for entry in self._entries) + amount - self.limit
        for when_s, held in self._entries:
            if excess <= 0:
                break
            excess -= held
            freed_s = when_s + WINDOW_S
            if excess <= 0:
                return freed_s - now_s
        return 0.0

    def add(self, amount: float, now_s: float) -> list[float]:
        """The new entry, whose second value may be corrected later."""
        entry = [now_s, amount]
        self._entries.append(entry)
        return entry


@dataclass(frozen=True)
class Used:
    """Tokens of prompts and answers, and what they cost."""

    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Used) -> Used:
        return Used(self.tokens + other.tokens, self.usd + other.usd)

    def __sub__(self, other: Used) -> Used:
        return Used(self.tokens - other.tokens, self.usd - other.usd)


@dataclass
class Account:
    """What one key has taken since it was made, and of this server in the last minute."""

    here: Used = Used()  # of this server since its start
    elsewhere: Used = Used()  # before, and of other servers of the home, as the file told
    reserved_usd: float = 0.0
    requests: Minute = field(default_factory=lambda: Minute(math.inf))
    tokens: Minute = field(default_factory=lambda: Minute(math.inf))

    @property
    def used(self) -> Used:
        return self.here + self.elsewhere


@dataclass(frozen=True)
class Caller:
    """Who sent a request. cache_key: prefixes are shared only between requests that have it too."""

    who: str  # "key <id>", "given key", "page"
    entry: KeyEntry | None = None  # None: without limits of its own
    account: Account | None = field(default=None, repr=False)

    @property
    def cache_key(self) -> str:
        return self.who


NOBODY = Caller("nobody")  # of a gateway that is used without HTTP


class Spending:
    """The tokens of one running request, held against its key's limits until it ends."""

    def __init__(
        self, account: Account | None, num_tokens: int, usd_per_token: float, now_s: float
    ) -> None:
        self._account, self._usd_per_token = account, usd_per_token
        self._held_usd = num_tokens * usd_per_token
        self._entry: list[float] | None = None
        if account is not None:
            self._entry = account.tokens.add(num_tokens, now_s)
            account.reserved_usd += self._held_usd

    def end(self, num_tokens: int) -> None:
        """What it took in the end. Harmless when repeated."""
        if self._account is None or self._entry is None:
            return
        self._entry[1], self._entry = num_tokens, None
        self._account.reserved_usd -= self._held_usd
        self._account.here += Used(num_tokens, num_tokens * self._usd_per_token)


class Ledger:
    """Accounts by key id, kept in a file between starts; without one, in memory alone.

    Servers of one home share the file: `save` adds to it what was used here since the last time,
    and takes from it what others used. What was used since then is lost with a process that dies,
    and not known elsewhere. Raises RecordError if the file is damaged: nobody's quota begins anew
    by accident.
    """

    def __init__(
        self,
        path: Path | None = None,
        usd_per_million_tokens: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = LOG.error,
    ) -> None:
        self._path, self._clock, self._tell = path, clock, tell
        self._usd_per_token = usd_per_million_tokens / 1e6
        self._saved: dict[str, Used] = {}  # of what was used here: that which is in the file
        self._failure: str | None = None
        self._saving = threading.Lock()
        self._accounts = {key_id: Account(elsewhere=used) for key_id, used in self._read().items()}

    def caller(self, entry: KeyEntry) -> Caller:
        account = self._accounts.setdefault(entry.key_id, Account())
        account.requests.limit = entry.requests_per_min or math.inf
        account.tokens.limit = entry.tokens_per_min or math.inf
        return Caller(f"key {entry.key_id}", entry, account)

    def count_request(self, caller: Caller) -> None:
        """Raises ApiError 429 if it is one more than the key may send in a minute."""
        entry, account = caller.entry, caller.account
        if entry is None or account is None or entry.requests_per_min is None:
            return
        now_s = self._clock()
        if (wait_s := account.requests.wait_s(1, now_s)) > 0:
            told = f"this key may send {entry.requests_per_min} requests a minute"
            raise _over("requests_per_min", told, wait_s)
        account.requests.add(1, now_s)

    def spend(self, caller: Caller, num_tokens: int) -> Spending:
        """Hold so many tokens. Raises ApiError 429 if they are over the key's limits, for now or
        for good (then without Retry-After)."""
        entry, account, now_s = caller.entry, caller.account, self._clock()
        if entry is not None and account is not None:
            if entry.max_usd is not None and not self._usd_per_token:
                told = "this key has a limit in USD, and this server no usd_per_million_tokens"
                raise ApiError(403, told, code="no_price")
            _check_tokens(entry, account, num_tokens, now_s)
            cost_usd = num_tokens * self._usd_per_token
            left_usd = (entry.max_usd or math.inf) - account.used.usd - account.reserved_usd
            if cost_usd > left_usd:
                told = (
                    f"this key may cost {entry.max_usd} USD, of which {max(0.0, left_usd):.6f} are "
                    f"left; this request may cost {cost_usd:.6f}"
                )
                raise _over("insufficient_quota", told, math.inf)
        return Spending(account, num_tokens, self._usd_per_token, now_s)

    def begin_reading(self, caller: Caller) -> Callable[[int], None]:
        """Of a text that is only made tokens, which costs nothing: call it with their number.

        Raises ApiError 429 where the key's tokens of this minute are used up.
        """
        account, now_s = caller.account, self._clock()
        if caller.entry is None or account is None:
            return lambda num_tokens: None
        _check_tokens(caller.entry, account, 1, now_s)
        entry = account.tokens.add(1, now_s)
        return lambda num_tokens: entry.__setitem__(1, num_tokens)

    def save(self) -> None:
        """Add what was used to the file; see what others added. Threads take turns: a server that
        stops saves once more, perhaps while one of its regular savings is still at work.

        What cannot be written is told once, and tried again: no reason to stop serving.
        """
        if self._path is None:
            return
        with self._saving:
            self._save(self._path)

    def _save(self, path: Path) -> None:
        here = {key_id: account.here for key_id, account in list(self._accounts.items())}
        new = {key: used - self._saved.get(key, Used()) for key, used in here.items()}
        try:
            if any(used.tokens for used in new.values()):
                own_folder(path.parent)
                with FileLock(path.with_suffix(".lock"), timeout=LOCK_S):
                    found = self._read()
                    found |= {key: found.get(key, Used()) + used for key, used in new.items()}
                    write_sealed(path, {key: vars(used) for key, used in found.items()})
                    self._saved = here
            else:
                found = self._read()
            self._failure = None
        except (WhorlError, OSError, Timeout) as error:
            if self._failure is None:
                self._tell(f"what keys use is not written down: {error}")
            self._failure = str(error)
            return
        for key_id, account in list(self._accounts.items()):
            account.elsewhere = found.get(key_id, Used()) - here.get(key_id, Used())

    def _read(self) -> dict[str, Used]:
        """What the file holds, of all servers."""
        if self._path is None or not self._path.exists():
            return {}
        found = read_sealed(self._path)
        try:
            return {key: Used(int(u["tokens"]), float(u["usd"])) for key, u in found.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"{self._path} does not say what keys used") from error


def check_sizes(ask: Ask, grammar: Grammar | None, config: ServeConfig) -> None:
    """Before anything is made of them. Raises ApiError 400 for what is over the server's limits.

    grammar: what the answer must follow, that of tools too.
    """
    if grammar is not None and len(grammar.text.encode()) > config.max_grammar_bytes:
        name = ask.names.get("grammar", "tools" if ask.grammar is None else "grammar")
        raise invalid(
            f"{name}: {len(grammar.text):,} characters of a schema or grammar are over this "
            f"server's limit of {config.max_grammar_bytes:,} bytes",
            name,
        )


def max_time_of(header: str | None) -> float | None:
    """Seconds, from X-Request-Timeout. Raises ApiError 400 for what is no time."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise invalid("the header X-Request-Timeout: expected seconds, above 0")
    return seconds


def _check_tokens(entry: KeyEntry, account: Account, num_tokens: int, now_s: float) -> None:
    if (wait_s := account.tokens.wait_s(num_tokens, now_s)) > 0:
        told = (
            f"this key may use {entry.tokens_per_min} tokens a minute, and this request "
            f"may come to {num_tokens}"
        )
        raise _over("tokens_per_min", told, wait_s)


def _over(code: str, told: str, wait_s: float) -> ApiError:
    headers = {} if wait_s == math.inf else {"Retry-After": str(math.ceil(wait_s))}
    return ApiError(429, told, code=code, headers=headers)
