"""What OpenVINO and NNCF do to a process beside their work, undone.

Their usage statistics are switched off: nothing is sent, nothing waits for it. What others say
through logging is heard as before. Whoever needs OpenVINO imports it by `load_openvino`: the
package loads its converter with it, which takes as long as all the rest and reports the import.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

__all__ = ["load_genai", "load_openvino", "logging_as_it_was", "silence_telemetry"]

CONVERTER = "openvino.tools.ovc"


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    """The level, filters and handlers of all logging, put back at the end.

    OpenVINO's converter hides all but errors, and shows them again only where it succeeded.
    """
    root = logging.getLogger()
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


def silence_telemetry() -> None:
    """Decline for this process, whatever was agreed to before; call before importing nncf.

    The package openvino_telemetry sends by default when no consent file exists, and its shutdown
    waits up to a second for the network.
    """
    try:
        checker = import_module("openvino_telemetry.utils.opt_in_checker")
        sender = import_module("openvino_telemetry.utils.sender")
    except ImportError:
        return  # not installed: OpenVINO uses its own stub
    declined = checker.ConsentCheckResult.DECLINED
    checker.OptInChecker.check = lambda *arguments, **options: declined
    sender.TelemetrySender.send = lambda *arguments, **options: None
    main = import_module("openvino_telemetry.main")
    main.Telemetry.send_event = lambda *arguments, **options: None


def load_openvino() -> Any:
    """The package openvino, its converter loaded when it is first used, and silent then.

    Raises ImportError where it is not installed.
    """
    is_first = "openvino" not in sys.modules
    if is_first:
        sys.modules.setdefault(CONVERTER, None)  # type: ignore[arg-type]  # importing it fails
    try:
        openvino = import_module("openvino")
    finally:
        if sys.modules.get(CONVERTER, "") is None:
            sys.modules.pop(CONVERTER, None)  # by whichever thread comes first
    if is_first and not hasattr(openvino, "convert_model"):
        openvino.__getattr__ = _of_the_converter  # type: ignore[method-assign]
    return openvino


def _of_the_converter(name: str) -> Any:
    """What the package lacks as it was loaded here."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    silence_telemetry()
    return import_module(CONVERTER).convert_model


def load_genai() -> Any:
    """The package openvino_genai. Raises ImportError where it, or openvino, is not installed."""
    load_openvino()
    return import_module("openvino_genai")
