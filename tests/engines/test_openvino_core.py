"""Ctrl-C after OpenVINO's engines came and went: heard, by a process that lives.

On a CPU with AMX the process died of SIGSEGV; elsewhere OpenVINO sets no stack for signals.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIFE = """
import ctypes, os, signal, sys, tempfile, threading
from pathlib import Path
from whorl.engines.setup import EngineSetup
from whorl.engines.open import open_engine
from whorl.engines.openvino_export import compress_folder
from whorl.engines.openvino_graph import OpenvinoGraph

class Stack(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def signal_stack():
    found = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found.at, found.flags, found.size

before = signal_stack()
folder, first, last = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def elsewhere(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

held = []
graph = lambda: held.append(OpenvinoGraph(folder, {}))
engine = lambda: held.append(open_engine(folder, name="openvino", setup=EngineSetup(2)))
close = lambda: [getattr(each, "close", int)() for each in held] and held.clear()
opens = {"graph": graph, "engine": engine}
for name in (first, last):
    opens[name]()
    elsewhere(close)
    elsewhere(opens[name])
    close()
with tempfile.TemporaryDirectory() as made:
    compress_folder(folder, Path(made) / "int8", "int8")
assert signal_stack() == before
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
os.kill(os.getpid(), signal.SIGINT)
print("heard", len(heard))
"""


@pytest.mark.parametrize("order", [("graph", "engine"), ("engine", "graph")])
def test_signals_are_heard_after_engines_went_in_other_threads(
    order: tuple[str, str], folders: Path
) -> None:
    command = [sys.executable, "-c", LIFE, str(folders / "f32"), *order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard 1\n"), done.stderr
