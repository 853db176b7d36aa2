"""tesseract, the method beside reading printed lines, where it is installed."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import which

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.image_files import pillow
from whorl.core.errors import DataError

__all__ = ["INSTALL", "PROGRAM", "is_there", "tesseract", "version"]

PROGRAM = "tesseract"
INSTALL = "apt-get install tesseract-ocr"
ONE_LINE = "7"  # its page segmentation mode: the image is one line of text
PAGE_END = "\f"
LIMIT_S = 600
PAPER, MARGIN_PX = 255, 10

Grey = NDArray[np.uint8]


def is_there() -> bool:
    return which(PROGRAM) is not None


def version() -> str:
    """Its name and version."""
    found = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=30)
    return (found.stdout or found.stderr).splitlines()[0]


def tesseract(images: Sequence[Grey]) -> list[str]:
    """What it reads in images of one line each, by its own model of English, all in one process.

    Raises DataError if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number:06}.png") for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            pillow().fromarray(image).save(path)
        listed, out = Path(folder, "images.txt"), Path(folder, "read")
        listed.write_text("".join(f"{path}\n" for path in paths))
        command = [PROGRAM, str(listed), str(out), "--psm", ONE_LINE]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)
            pages = out.with_suffix(".txt").read_text("utf-8").split(PAGE_END)
        except (OSError, subprocess.SubprocessError) as error:
            raise DataError("tesseract failed", found=error) from error
    if len(pages) < len(images):
        raise DataError("tesseract read fewer images", found=len(pages), expected=len(images))
    return [" ".join(page.split()) for page in pages[: len(images)]]
