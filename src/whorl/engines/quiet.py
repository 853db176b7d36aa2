"""What OpenVINO and NNCF do to a process beside their work, undone.

Their usage statistics are switched off: nothing is sent, nothing waits for it. What others say
through logging is heard as before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["logging_as_it_was", "silence_telemetry"]


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
