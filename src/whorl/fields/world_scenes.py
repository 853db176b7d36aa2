"""What is where in an environment, as plain values: for whoever watches, not for the model.

Squares of minigrid's levels, roads of highway-env; of others nothing. The forms are told by
`whorl.core.environments.Drawable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["scene_of"]

BEHIND_M, AHEAD_M, STEP_M = 40.0, 100.0, 10.0  # of the road around the model's own vehicle
DIGITS = 2  # centimetres


def scene_of(env: Any) -> Mapping[str, Any]:
    """env: unwrapped. {} where there is nothing that can be drawn."""
    if all(hasattr(env, name) for name in ("grid", "agent_pos", "agent_dir")):
        return _grid(env)
    if all(hasattr(env, name) for name in ("road", "vehicle")) and env.vehicle is not None:
        return _road(env)
    return {}


def _grid(env: Any) -> Mapping[str, Any]:
    grid = env.grid
    things = []
    for x in range(grid.width):
        for y in range(grid.height):
            thing = grid.get(x, y)
            if thing is not None:
                things.append([x, y, _kind(thing), str(thing.color)])
    held = env.carrying
    carried = "" if held is None else f"; carries the {held.color} {held.type}"
    return {
        "kind": "grid",
        "width": int(grid.width),
        "height": int(grid.height),
        "agent": [*(int(axis) for axis in env.agent_pos), int(env.agent_dir)],
        "things": things,
        "told": f"{env.mission}{carried}",
    }


def _kind(thing: Any) -> str:
    """ "open door" of a door that is open, else minigrid's own word."""
    return "open door" if getattr(thing, "is_open", False) else str(thing.type)


def _road(env: Any) -> Mapping[str, Any]:
    own = env.vehicle
    lanes = [list(_lane(lane, own)) for lane in env.road.network.lanes_list()]
    return {
        "kind": "road",
        "lanes": [lane for lane in lanes if len(lane) > 1],
        "vehicles": [
            _vehicle(vehicle, own)
            for vehicle in env.road.vehicles
            if -BEHIND_M - AHEAD_M < _along(vehicle, own) < 2 * AHEAD_M
        ],
        "told": f"{own.speed:.0f} m/s",
    }


def _along(vehicle: Any, own: Any) -> float:
    """Metres ahead of the own vehicle, in its direction."""
    away = np.asarray(vehicle.position) - np.asarray(own.position)
    return float(away @ [np.cos(own.heading), np.sin(own.heading)])


def _lane(lane: Any, own: Any) -> Iterator[list[float]]:
    """Points of its middle around the own vehicle; none where it is elsewhere."""
    here, aside = lane.local_coordinates(np.asarray(own.position))
    if abs(float(aside)) > AHEAD_M:
        return
    first, last = max(0.0, here - BEHIND_M), min(float(lane.length), here + AHEAD_M)
    for along in np.arange(first, last + STEP_M, STEP_M):
        yield _rounded(lane.position(min(float(along), last), 0.0))


def _vehicle(vehicle: Any, own: Any) -> list[Any]:
    return [
        *_rounded(vehicle.position),
        round(float(vehicle.heading), DIGITS + 1),
        float(vehicle.LENGTH),
        float(vehicle.WIDTH),
        vehicle is own,
        bool(vehicle.crashed),
    ]


def _rounded(point: Any) -> list[float]:
    return [round(float(axis), DIGITS) for axis in point]
