"""Lanes: pieces of work on threads of their own, whose operations are not split."""

from __future__ import annotations

import threading

import pytest
import torch

from whorl.stages.train.lanes import Lanes


def where() -> tuple[str, int]:
    return threading.current_thread().name, torch.get_num_threads()


def test_one_piece_of_work_runs_on_a_lane_too() -> None:
    """On the main thread its operations would wait for each other's threads beside other work."""
    lanes = Lanes(2, 4)
    try:
        name, threads = lanes.run_one(where)
        assert name.startswith("lane") and threads == 2
        assert lanes.run([where]) == [where()]  # a list of one does not
        with pytest.raises(ZeroDivisionError):
            lanes.run_one(lambda: 1 // 0)
    finally:
        lanes.close()
    assert Lanes(1, 4).run_one(where) == where()
