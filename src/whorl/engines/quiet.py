"""OpenVINO's and NNCF's usage statistics, switched off: nothing is sent, nothing waits for it."""

from __future__ import annotations

from importlib import import_module

__all__ = ["silence_telemetry"]


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
