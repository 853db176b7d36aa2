"""Who plays an environment for others to learn from: the bot of BabyAI's levels, a careful driver.

A teacher chooses the next action of a world that has been reset. Each is by its package's own
means; where none is, demonstrations come as jsonl.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from whorl.core.environments import MAX_STEPS, Observation
from whorl.core.errors import SpecError
from whorl.fields.gymnasium_worlds import GymWorld

__all__ = ["AUTO", "IDLE", "IDLE_ACTION", "RANDOM", "Shown", "demonstration", "teacher_of"]

AUTO, BOT, IDM, RANDOM = "auto", "bot", "idm", "random"
IDLE, IDLE_ACTION = "idle", "IDLE"  # of worlds in which one may do nothing
TARGET_SPEED = 30.0  # m/s, of the driver
FASTER_ABOVE, SLOWER_BELOW = 1.5, -0.5  # m/s2 that its model wants


def teacher_of(name: str) -> str | None:
    """The one that an environment's package brings; None: it brings none."""
    if "BabyAI-" in name:
        return BOT
    return IDM if name.startswith("highway_env:") else None


class Shown(NamedTuple):
    """A step of a demonstration."""

    seen: Observation
    action: str  # that was done
    is_taught: bool = True  # chosen by the teacher


def demonstration(world: GymWorld, teacher: str, seed: int, astray: float = 0.0) -> Iterator[Shown]:
    """What a teacher sees and does from a seed on, in MAX_STEPS at most: what is longer has not
    succeeded, nor has a teacher that is lost. Raises SpecError if there is no such teacher.

    astray: share of the steps at which an action at random is done instead, so that the teacher
    shows how one comes back from where it would never be (Laskey et al. 2017, DART).
    """
    seen = world.reset(seed)
    choose, done = _chooser(world, teacher, seed), None
    rng = np.random.default_rng([seed, 1])
    for _ in range(MAX_STEPS):
        try:
            done, is_taught = choose(done), True
        except _LostError:
            return
        if rng.random() < astray:
            done, is_taught = world.actions[int(rng.integers(len(world.actions)))], False
        yield Shown(seen, done, is_taught)
        after = world.step(done)
        seen = after.observation
        if after.has_ended:
            return


def _chooser(world: GymWorld, teacher: str, seed: int) -> Callable[[str | None], str]:
    """Gives the next action, told the one that was done before."""
    own = teacher_of(world.name)
    if teacher == RANDOM:
        rng = np.random.default_rng(seed)
        return lambda done: world.actions[int(rng.integers(len(world.actions)))]
    if teacher == IDLE and IDLE_ACTION in world.actions:
        return lambda done: IDLE_ACTION
    if own is None or teacher not in (AUTO, own):
        raise SpecError(
            f"data.options.teacher: {world.name} has no teacher {teacher}",
            expected=f"{own}, {RANDOM}" if own else RANDOM,
            do="give demonstrations of your own as jsonl",
        )
    return _bot(world) if own == BOT else lambda done: world.actions[_driven(world.env.unwrapped)]


class _LostError(Exception):
    """A teacher that was led astray does not know how to go on."""


def _bot(world: GymWorld) -> Callable[[str | None], str]:
    from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

    bot, kinds = BabyAIBot(world.env.unwrapped), world.env.unwrapped.actions

    def choose(done: str | None) -> str:
        before = None if done is None else kinds(world.actions.index(done))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return world.actions[int(bot.replan(before))]
        except (DisappearedBoxError, AssertionError) as error:
            raise _LostError from error

    return choose


def _driven(env: Any) -> int:
    """The action nearest to what the driver of IDM and MOBIL would do in the vehicle's place."""
    from highway_env.vehicle.behavior import IDMVehicle

    ego, road = env.vehicle, env.road
    names = {name: number for number, name in env.action_type.actions.items()}
    vehicles = road.vehicles
    road.vehicles = [vehicle for vehicle in vehicles if vehicle is not ego]
    try:
        driver = IDMVehicle.create_from(ego)
        driver.target_speed, driver.timer = TARGET_SPEED, 2 * driver.LANE_CHANGE_DELAY
        driver.target_lane_index = ego.target_lane_index
        if driver.lane_index == driver.target_lane_index:
            driver.change_lane_policy()
        aside = driver.target_lane_index[2] - ego.target_lane_index[2]
        front, rear = road.neighbour_vehicles(driver, ego.target_lane_index)
        wanted = driver.acceleration(driver, front_vehicle=front, rear_vehicle=rear)
    finally:
        road.vehicles = vehicles
    if aside:
        return int(names["LANE_LEFT" if aside < 0 else "LANE_RIGHT"])
    if wanted > FASTER_ABOVE:
        return int(names["FASTER"])
    return int(names["SLOWER" if wanted < SLOWER_BELOW else "IDLE"])
