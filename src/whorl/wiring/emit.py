"""A server as a unit of systemd or a manifest of Kubernetes: the same command, limits and health.

The key is never written: both name where it lies.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from whorl import __version__
from whorl.core.errors import SpecError
from whorl.engines.threads import engine_threads
from whorl.spec.resolved import ServeConfig
from whorl.stages.serve.promise import Promise

__all__ = ["emit_server"]

FORMATS = ("systemd", "kubernetes")
HEADROOM = 1.25  # of the predicted memory: beyond it the system ends the server
MIB = 2**20


def emit_server(
    form: str,
    model_id: str,
    arguments: Sequence[str],
    config: ServeConfig,
    promise: Promise,
    home: Path,
) -> str:
    """The unit or manifest. arguments: of `whorl serve`, without host, port, home and key.

    Raises SpecError on a form that there is none of.
    """
    server = _Server(model_id, arguments, config, promise, home.resolve())
    if form == "systemd":
        return _systemd(server)
    if form == "kubernetes":
        return _kubernetes(server)
    raise SpecError(f"--emit {form}", expected=" or ".join(FORMATS))


@dataclass(frozen=True)
class _Server:
    model_id: str
    arguments: Sequence[str]
    config: ServeConfig
    promise: Promise
    home: Path

    @property
    def name(self) -> str:
        """As DNS and files take it."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.model_id.lower()).strip("-")
        return f"whorl-{plain or 'model'}"[:63].rstrip("-")

    @property
    def memory_mib(self) -> int:
        return math.ceil(HEADROOM * self.promise.memory_bytes / MIB)

    @property
    def stop_s(self) -> int:
        """Until a server that was told to stop has let its requests end."""
        return math.ceil(self.config.grace_s) + 15


def _systemd(d: _Server) -> str:
    host, port = d.config.host, d.config.port or 8000
    command = [sys.executable, "-m", "whorl", "serve", *d.arguments]
    command += ["--host", host, "--port", str(port), "--home", str(d.home)]
    health = f"http://{f'[{host}]' if ':' in host else host}:{port}/health"
    wait = ["curl", "-sf", "--retry", "60", "--retry-delay", "2", "--retry-all-errors"]
    return f"""\
# {d.name}.service, for /etc/systemd/system. The key lies in /etc/whorl/{d.name}.env, readable by
# root alone: WHORL_API_KEY=… The server runs as the user who wrote this unit.
# {d.promise}
[Unit]
Description=whorl serve {_doubled(d.model_id, "%")}
After=network-online.target
Wants=network-online.target

[Service]
User={os.getuid()}
EnvironmentFile=/etc/whorl/{d.name}.env
ExecStart={_command(command)}
ExecStartPost=/usr/bin/env {_command([*wait, "-o", "/dev/null", health])}
Restart=on-failure
RestartSec=5
TimeoutStartSec=600
TimeoutStopSec={d.stop_s}
MemoryMax={d.memory_mib}M
LimitNOFILE=65536
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={_doubled(_unit_word(str(d.home)), "%")}
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX

[Install]
WantedBy=multi-user.target
"""


def _command(words: Sequence[str]) -> str:
    """A command as a unit has it: % means something everywhere there, $ in commands."""
    return _doubled(" ".join(map(_unit_word, words)), "%$")


def _doubled(text: str, signs: str) -> str:
    for sign in signs:
        text = text.replace(sign, 2 * sign)
    return text


def _unit_word(word: str) -> str:
    if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII):
        return word
    if not word.isprintable():
        raise SpecError("a unit of systemd cannot name this", found=repr(word))
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _kubernetes(d: _Server) -> str:
    labels = {"app.kubernetes.io/name": "whorl", "app.kubernetes.io/instance": d.name}
    pod = {
        "terminationGracePeriodSeconds": d.stop_s,
        "automountServiceAccountToken": False,
        "containers": [_container(d)],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": d.name}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": d.name, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": d.name, "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }
    head = f"""\
# {d.promise}
# The image has `pip install 'whorl[openvino]=={__version__}'`. The claim {d.name} holds the home
# with the model. The key: kubectl create secret generic {d.name} --from-file=api-key
"""
    return head + yaml.safe_dump_all([deployment, service], sort_keys=False, allow_unicode=True)


def _container(d: _Server) -> dict[str, Any]:
    command = ["whorl", "serve", *d.arguments, "--host", "0.0.0.0", "--port", "8000"]
    command += ["--allow-host", d.name, "--home", "/models"]
    probe = {"httpGet": {"path": "/health", "port": "http"}}
    memory = f"{d.memory_mib}Mi"
    return {
        "name": "whorl",
        "image": f"whorl:{__version__}",
        "command": command,
        "ports": [{"name": "http", "containerPort": 8000}],
        "env": [
            {
                "name": "WHORL_API_KEY",
                "valueFrom": {"secretKeyRef": {"name": d.name, "key": "api-key"}},
            }
        ],
        "startupProbe": {**probe, "periodSeconds": 5, "failureThreshold": 120},
        "readinessProbe": {**probe, "periodSeconds": 5},
        "livenessProbe": {**probe, "periodSeconds": 15, "failureThreshold": 4},
        "resources": {
            "requests": {"cpu": str(engine_threads()), "memory": memory},
            "limits": {"memory": memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "models", "mountPath": "/models"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
