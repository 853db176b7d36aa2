"""What is where in a world, for whoever watches: squares of minigrid, roads of highway-env."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whorl.core.environments import Drawable
from whorl.fields.gymnasium_worlds import GymWorld
from whorl.fields.world_scenes import scene_of


def test_a_grid_is_told_square_by_square() -> None:
    door = SimpleNamespace(type="door", color="blue", is_open=True)
    things = {(0, 0): SimpleNamespace(type="wall", color="grey"), (2, 1): door}
    grid = SimpleNamespace(width=3, height=2, get=lambda x, y: things.get((x, y)))
    held = SimpleNamespace(type="key", color="red")
    env = SimpleNamespace(
        grid=grid, agent_pos=np.array([1, 1]), agent_dir=3, carrying=held, mission="go to the door"
    )
    assert scene_of(env) == {
        "kind": "grid",
        "width": 3,
        "height": 2,
        "agent": [1, 1, 3],
        "things": [[0, 0, "wall", "grey"], [2, 1, "open door", "blue"]],
        "told": "go to the door; carries the red key",
    }


class _Lane:
    """Along the x axis, at some y."""

    length = 1_000.0

    def __init__(self, y: float) -> None:
        self.y = y

    def local_coordinates(self, position: Any) -> tuple[float, float]:
        return float(position[0]), float(position[1]) - self.y

    def position(self, along: float, aside: float) -> np.ndarray:
        return np.array([along, self.y + aside])


def _vehicle(x: float, y: float, crashed: bool = False) -> Any:
    return SimpleNamespace(
        position=np.array([x, y]), heading=0.0, speed=20.4, crashed=crashed, LENGTH=5.0, WIDTH=2.0
    )


def test_a_road_is_told_around_the_own_vehicle() -> None:
    own, near, far = _vehicle(300, 4), _vehicle(340.256, 0, crashed=True), _vehicle(900, 0)
    network = SimpleNamespace(lanes_list=lambda: [_Lane(0), _Lane(4), _Lane(5_000)])
    road = SimpleNamespace(network=network, vehicles=[own, near, far])
    told = scene_of(SimpleNamespace(road=road, vehicle=own))
    assert told["vehicles"] == [
        [300.0, 4.0, 0.0, 5.0, 2.0, True, False],
        [340.26, 0.0, 0.0, 5.0, 2.0, False, True],
    ]
    assert [lane[0] for lane in told["lanes"]] == [[260.0, 0.0], [260.0, 4.0]]
    assert [lane[-1] for lane in told["lanes"]] == [[400.0, 0.0], [400.0, 4.0]]
    assert told["kind"] == "road" and told["told"] == "20 m/s"


def test_of_other_worlds_nothing_is_told() -> None:
    world = GymWorld("x", SimpleNamespace(unwrapped=SimpleNamespace(state=1)), ("a",))
    assert isinstance(world, Drawable) and world.scene() == {}


def test_a_level_of_babyai_is_what_minigrid_itself_encodes() -> None:
    pytest.importorskip("minigrid", reason="needs the extra worlds")
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

    from whorl.fields.gymnasium_worlds import open_world

    world = open_world("minigrid:BabyAI-PickupLoc-v0")
    world.reset(7)
    for action in ("left", "forward", "right", "forward"):
        world.step(action)
    told, env = world.scene(), world.env.unwrapped
    squares = {(x, y): (kind, colour) for x, y, kind, colour in told["things"]}
    for (x, y), number in np.ndenumerate(env.grid.encode()[:, :, 0]):
        kind = IDX_TO_OBJECT[int(number)]
        colour = IDX_TO_COLOR[int(env.grid.encode()[x, y, 1])]
        expected = None if kind in ("empty", "unseen") else (kind, colour)
        assert squares.get((x, y)) == expected
    assert told["agent"] == [*env.agent_pos, env.agent_dir]
    assert told["told"] == env.mission


def test_a_road_of_highway_env_is_drawn_where_its_vehicles_are() -> None:
    pytest.importorskip("highway_env", reason="needs the extra worlds")
    from whorl.fields.gymnasium_worlds import open_world

    world = open_world("highway_env:highway-fast-v0?config.lanes_count=3")
    world.reset(3)
    world.step("FASTER")
    told, env = world.scene(), world.env.unwrapped
    assert len(told["lanes"]) == 3
    own = [vehicle for vehicle in told["vehicles"] if vehicle[5]]
    assert len(own) == 1 and own[0][:2] == pytest.approx(env.vehicle.position, abs=0.01)
    middles = {lane[0][1] for lane in told["lanes"]}
    assert all(min(abs(v[1] - y) for y in middles) < 4 for v in told["vehicles"])
    assert len(told["vehicles"]) > 1
