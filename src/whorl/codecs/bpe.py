"""Byte-level BPE trained by the library `tokenizers`, what takes long in a process of its own.

The library looks for no signal while it trains, so Ctrl-C would wait for its end. A process of its
own is killed when this one is told to stop, ends with it however it ends, and gives its memory
back.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, BinaryIO

from whorl.codecs.tokenizer import tokenizers_library
from whorl.codecs.words import SPLIT_PATTERN
from whorl.core.errors import ResourceError

__all__ = ["answer", "train_bpe"]

HERE_CHARS = 2**17  # of text are trained on in this process: half a second at most
LENGTH_BYTES = 4
END = 2**32 - 1  # in place of a text's length
CHILD = "import sys; sys.path[:] = sys.argv[3:]; from whorl.codecs import bpe; bpe.answer()"


def train_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> bytes:
    """A tokenizer.json of at most vocab_size ids: special ones, bytes, and merges of the texts.

    It depends on the texts alone, on no thread or process. They are in NFC, and short: each takes
    many times its size. The first special token is put before what is encoded by the file's own
    rules. Raises ResourceError if the process ends before its work.
    """
    rest = iter(texts)
    head: list[str] = []
    left_chars = HERE_CHARS
    for text in rest:
        head.append(text)
        left_chars -= len(text)
        if left_chars < 0:
            return _elsewhere(itertools.chain(head, rest), vocab_size, special_tokens)
    return _trained(head, vocab_size, special_tokens)


def _trained(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> bytes:
    library = tokenizers_library()
    byte_level = library.pre_tokenizers.ByteLevel
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(SPLIT_PATTERN), "isolated"),
            byte_level(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    first = special_tokens[0]
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, 0)]
    )
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(special_tokens),
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return bytes(tokenizer.to_str().encode())


# ------------------------------------------------------------------ in another process


def _elsewhere(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> bytes:
    work = (str(vocab_size), json.dumps(special_tokens))
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *work, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which decides
    )
    assert process.stdin and process.stdout and process.stderr
    found = b""
    try:
        with contextlib.suppress(BrokenPipeError):  # it ended: why is read below
            _send(process.stdin, texts)
        found, said = process.stdout.read(), process.stderr.read()
    except BaseException:
        process.kill()
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # not before: its end means ours
        process.wait()
        process.stdout.close()
        process.stderr.close()
    if process.returncode or not found:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ResourceError(
            "the process that trains the tokenizer ended before its work",
            found=f"exit code {process.returncode} {last}",
            do="if memory ran out, free some or lower prepare.vocab_size; run again",
        )
    return found


def _send(pipe: IO[bytes], texts: Iterable[str]) -> None:
    for text in texts:
        data = text.encode()
        pipe.write(len(data).to_bytes(LENGTH_BYTES, "little") + data)
    pipe.write(END.to_bytes(LENGTH_BYTES, "little"))
    pipe.flush()


def answer() -> None:
    """The other process: texts from standard input, their tokenizer.json to standard output."""
    vocab_size, special_tokens = int(sys.argv[1]), json.loads(sys.argv[2])
    found = _trained(_received(sys.stdin.buffer), vocab_size, special_tokens)
    sys.stdout.buffer.write(found)
    sys.stdout.buffer.flush()
    os._exit(0)


def _received(pipe: BinaryIO) -> Iterator[str]:
    while (length := int.from_bytes(_exactly(pipe, LENGTH_BYTES), "little")) != END:
        yield _exactly(pipe, length).decode()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing more comes but the end
    os._exit(1)


def _exactly(pipe: BinaryIO, num_bytes: int) -> bytes:
    """Bytes of the pipe; if its other end is gone, this process ends too."""
    data = pipe.read(num_bytes)
    if len(data) < num_bytes:
        os._exit(1)
    return data
