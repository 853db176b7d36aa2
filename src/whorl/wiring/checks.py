"""A model folder in the runtimes it is meant for, those of them that are installed."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from whorl.arch.computable import check_computable
from whorl.codecs.contract import TEXT, Tokens
from whorl.core.errors import EngineError, SpecError
from whorl.core.ports import Progress
from whorl.core.scratch import hold
from whorl.engines.openvino_export import export_openvino
from whorl.engines.runtimes import (
    INSTALL,
    QUESTION,
    TEXTS,
    Checks,
    Runtime,
    check_runtime,
    golden_prompts,
    is_installed,
    llama_cpp_runtime,
    openvino_runtime,
    torch_runtime,
    transformers_runtime,
)
from whorl.model.folder import TOKENS, FolderCard, change_card, peek_card
from whorl.model.gguf_file import open_gguf
from whorl.model.hf_source import open_hf_source

__all__ = ["FIGURES", "RuntimeChecks", "keep_figures", "only_vetted", "runtimes_here"]

RUNTIMES = ("transformers", "openvino")
FIGURES = "runtimes"  # in the quality of a model's card
GGUF_PACKAGES = ("gguf", "accelerate")  # that transformers reads GGUF files with


def runtimes_here(of: str) -> list[str]:
    """Runtimes that are installed, of those that are compared with torch; of: the source's form."""
    names = (*RUNTIMES, "llama.cpp") if of == "gguf" else RUNTIMES
    return [name for name in names if is_installed(name)]


def keep_figures(folder: Path, checks: Checks) -> FolderCard:
    """Put what was measured into the folder's card."""
    card = peek_card(folder)
    quality = {**card.quality, FIGURES: checks.as_json()["checked"]}
    return change_card(folder, replace(card, quality=quality))


@contextmanager
def only_vetted(source: Path) -> Iterator[Path]:
    """A folder of links to just the files that whorl's own reader looked over, or to the one file.

    Other libraries find more in a folder than they are pointed to: adapters, pickles, code. What
    lies beside the vetted files is not there for them. Raises as `open_hf_source` does.
    """
    is_folder = source.is_dir()
    names = open_hf_source(source).files if is_folder else (source.name,)
    with tempfile.TemporaryDirectory(prefix="whorl-", ignore_cleanup_errors=True) as scratch:
        folder = hold(Path(scratch)) / source.resolve().name
        folder.mkdir()
        for name in names:
            target = (source / name if is_folder else source).resolve(strict=True)
            try:
                (folder / name).symlink_to(target)
            except OSError:  # a system, or a disk, without links
                shutil.copyfile(target, folder / name)
        yield folder if is_folder else folder / source.name


class RuntimeChecks:
    """Compares runtimes with whorl's torch engine over one folder, and remembers the figures."""

    def __init__(self, folder: Path, reference: Runtime, progress: Progress) -> None:
        self.folder, self.reference, self.progress = folder, reference, progress
        self.card = peek_card(folder)  # the reference was opened from it
        self.tokens = Tokens.load(folder / TOKENS)
        self.prompts = golden_prompts(self.tokens, self.card.shape.max_seq_len)
        self.checks = Checks()

    @classmethod
    @contextmanager
    def over(cls, folder: Path, progress: Progress) -> Iterator[RuntimeChecks]:
        with torch_runtime(folder) as reference:
            yield cls(folder, reference, progress)

    def transformers(self, source: Path) -> None:
        """Over a folder or a GGUF file; where GGUF cannot be read, over the folder made of it.

        Raises EngineError if ids, logits or answers differ.
        """
        name, note = "transformers", ""
        if not self._is_here(name):
            return
        if self.card.shape.block:
            self.checks.not_checked[name] = "it has no such model: its layers are a package's"
            return
        if source.is_file() and (gone := [p for p in GGUF_PACKAGES if not is_installed(p)]):
            note = f"of the imported folder, not the GGUF file: pip install {' '.join(gone)}"
            source = self.folder
        self._compare_ids(self.folder)
        with ExitStack() as stack:
            vetted = stack.enter_context(only_vetted(source))
            if source.is_dir() and source != self.folder:
                self._compare_ids(vetted)
            try:
                other = stack.enter_context(transformers_runtime(vetted, self.card))
            except EngineError as error:
                if source.is_dir():
                    raise
                note = f"of the imported folder, not the GGUF file: {error.found or error}"
                other = stack.enter_context(transformers_runtime(self.folder, self.card))
            self._compare(name, other, True, note)

    def openvino(self, exported: Path) -> None:
        """Over an exported folder. Raises EngineError if it says something else."""
        name = f"openvino {peek_card(exported).variant.weights}"
        if self._is_here("openvino"):
            with openvino_runtime(exported) as other:
                self._compare(name, other, name.endswith(" f32"))

    def exported(self, scratch: Path) -> None:
        """As OpenVINO would serve the folder: exported into a new folder first."""
        if not self._is_here("openvino"):
            return
        try:
            check_computable(self.card.shape, "export")
        except SpecError as error:
            self.checks.not_checked["openvino"] = f"cannot be exported: {error.found}"
            return
        export_openvino(self.folder, scratch)
        self.openvino(scratch)

    def gguf(self, file: Path, read: Path, is_exact: bool) -> None:
        """Over a GGUF file of this model, and the folder that whorl reads from it.

        is_exact: the file's numbers are the model's. What other programs make of the file is
        compared with what whorl reads from it. Raises EngineError if ids, logits or answers differ.
        """
        tokens = Tokens.load(read / TOKENS)
        for text in TEXTS:
            if (found := tokens.encode_prompt(text)) != (ours := self.tokens.encode_prompt(text)):
                raise EngineError(f"the file gives {text!r} other ids", found=found, expected=ours)
        with torch_runtime(read) as again:
            self._compare("whorl", again, is_exact)
            theirs = RuntimeChecks(read, again, self.progress)
            theirs.checks = self.checks
            theirs.transformers(file)
            theirs.llama_cpp(file)

    def llama_cpp(self, file: Path) -> None:
        """Over a GGUF file, of which this folder was read. Raises EngineError if ids, logits or
        answers differ.

        It rounds the inputs of a product to what the matrix is in (bf16, or int8 where it is
        quantised): only of matrices in f32 it computes the same.
        """
        if not self._is_here("llama.cpp"):
            return
        kinds = {each.kind for each in open_gguf(file).tensors.values() if len(each.sizes) > 1}
        with llama_cpp_runtime(file, self.card, self.tokens) as other:
            self._compare("llama.cpp", other, kinds == {"F32"})

    def _is_here(self, name: str) -> bool:
        if not is_installed(name):
            self.checks.not_checked[name] = f"not installed: {INSTALL[name]}"
        return is_installed(name)

    def _compare(self, name: str, other: Runtime, is_exact: bool, note: str = "") -> None:
        self.progress.start(f"comparing with {name}", None)
        most = self.card.shape.max_seq_len
        figures = check_runtime(
            self.reference, other, self.prompts, most, is_exact=is_exact, note=note
        )
        self.checks.checked[name] = figures
        self.progress.finish()

    def _compare_ids(self, folder: Path) -> None:
        """Raises EngineError if transformers' tokenizer gives a text other ids."""
        if TEXT not in self.tokens.codecs:
            return
        auto: Any = importlib.import_module("transformers").AutoTokenizer
        try:
            theirs = auto.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # whatever its many parts raise
            raise EngineError(
                f"transformers cannot load the tokenizer of {folder}", found=error
            ) from error
        pairs = [(text, theirs.encode(text), self.tokens.encode_prompt(text)) for text in TEXTS]
        if self.tokens.contract.chat_template is not None:
            found = theirs.apply_chat_template(
                QUESTION["messages"], add_generation_prompt=True, return_dict=False
            )
            ours = self.tokens.encode_chat(QUESTION, ask=True)[0].tolist()
            pairs.append(("a question in the chat template", found, ours))
        for text, found, ours in pairs:
            if ours != found:
                raise EngineError(
                    f"transformers' tokenizer gives {text!r} other ids", found=found, expected=ours
                )
