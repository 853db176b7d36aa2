"""How soon a second command begins on unchanged sources: gigabytes of text, hashed once.

    python benchmarks/prepare_scale.py --bytes 2e9 --json

Writes random words to files, plans a recipe on them twice in fresh processes, and deletes them at
the end. Times are of whole processes. "import" is a process that only imports what the command
does. The machine is calibrated before, on a tiny source. The peer is sha256sum over the same
files: what every command costs that remembers nothing. All files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whorl.core.sources import RACY_NS

FILE_BYTES = 2**24
NUM_WORDS, WORD_CHARS = 50_000, 11
LIMIT_S = 1.0  # what the second command may take beyond its imports
IMPORTS = "import whorl.cli.main, whorl.stages.plan.run, whorl.stages.prepare.facts, whorl.launch.calibrate, whorl.fields.text"  # noqa: E501
RECIPE = "name: scale\ndata:\n  - {{source: {source}, field: text}}\nbudget: {{train_time: 1min}}\n"


def write_text(folder: Path, num_bytes: int) -> int:
    """Files of about FILE_BYTES, together num_bytes or a little more; gives their number."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    letters = rng.integers(ord("a"), ord("z") + 1, (NUM_WORDS, WORD_CHARS), dtype=np.uint8)
    words = [
        row[:size].tobytes()
        for row, size in zip(letters, rng.integers(1, WORD_CHARS, NUM_WORDS), strict=True)
    ]
    done = count = 0
    while done < num_bytes:
        size = min(FILE_BYTES, num_bytes - done)
        ranks = (NUM_WORDS ** rng.random(size // 4)).astype(np.int64) - 1  # as Zipf has it
        text = b" ".join([words[rank] for rank in ranks.tolist()])[:size]
        text += b"\n" * (size - len(text) or 1)
        (folder / f"{count:05d}.txt").write_bytes(text)
        done, count = done + len(text), count + 1
    return count


def timed(command: Sequence[str]) -> float:
    """Seconds of a process. Raises SystemExit with its output if it fails."""
    begin = time.perf_counter()
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stdout}")
    return time.perf_counter() - begin


def plan(folder: Path, source: Path) -> float:
    """Seconds of `whorl plan` on a source; all plans share one home."""
    recipe = folder / "scale.yaml"
    recipe.write_text(RECIPE.format(source=json.dumps(str(source))))
    home = ["--home", str(folder / "home")]
    return timed([sys.executable, "-m", "whorl", "plan", str(recipe), *home])


def measure(folder: Path, num_bytes: int) -> dict[str, float | int | None]:
    write_text(folder / "tiny", 10**6)
    plan(folder, folder / "tiny")
    num_files = write_text(folder / "texts", num_bytes)
    time.sleep(RACY_NS / 1e9)
    import_s = timed([sys.executable, "-c", IMPORTS])
    files = [str(path) for path in sorted((folder / "texts").iterdir())]
    return {
        "bytes": num_bytes,
        "files": num_files,
        "import_s": import_s,
        "first_s": plan(folder, folder / "texts"),
        "second_s": (second_s := plan(folder, folder / "texts")),
        "beyond_import_s": second_s - import_s,
        "sha256sum_s": timed(["sha256sum", *files]) if shutil.which("sha256sum") else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=float, default=2e9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), int(arguments.bytes))
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{found['bytes'] / 1e9:.1f} GB of text in {found['files']} files")
    for name in ("import", "first", "second", "beyond_import", "sha256sum"):
        seconds = found[f"{name}_s"]
        print(f"  {name:14} {'not installed' if seconds is None else f'{seconds:7.2f} s'}")
    verdict = "reached" if found["beyond_import_s"] < LIMIT_S else "MISSED"
    print(f"second command under {LIMIT_S} s beyond its imports: {verdict}")


if __name__ == "__main__":
    main()
