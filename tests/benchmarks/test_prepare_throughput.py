"""The benchmark of prepare: one document of JSON, whorl beside its peer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks/prepare_throughput.py"


def test_a_row_has_both_sides() -> None:
    command = [sys.executable, str(BENCHMARK), "--megabytes", "0.05", "--json"]
    command += ["--sources", "line ends"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["rows"]
    assert [row["source"] for row in rows] == ["prose", "line ends"]
    for row in rows:
        assert 50_000 <= row["bytes"] < 60_000 and row["documents"] == row["kept"] == 2
        assert 0 < row["tokens"] < row["bytes"] and 0 < row["peer"]["tokens"] < row["bytes"]
        assert row["of_prose"].keys() == {"whorl", "peer"}
    assert rows[0]["of_prose"] == {"whorl": 1.0, "peer": 1.0}
