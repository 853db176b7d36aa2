"""A fake of the port Environment: a corridor in which a lamp says which way is out."""

from __future__ import annotations

from dataclasses import dataclass

from whorl.core.environments import Observation, Reaction
from whorl.core.errors import DataError

__all__ = ["FakeEnvironment"]


@dataclass
class FakeEnvironment:
    """`length` steps to the side of the lamp, which the seed chooses, are worth 1 and the end."""

    length: int = 3
    patience: int = 8  # steps
    name: str = "corridor"
    actions: tuple[str, ...] = ("left", "right")
    place: int = 0
    num_steps: int = 0
    lamp: str = "left"

    def reset(self, seed: int) -> Observation:
        self.place, self.num_steps, self.lamp = 0, 0, self.actions[seed % 2]
        return self._seen()

    def step(self, action: str) -> Reaction:
        if action not in self.actions or self.num_steps >= self.patience:
            raise DataError("the corridor takes no such action", found=action)
        self.num_steps += 1
        self.place += 1 if action == "right" else -1
        is_out = self.place == (self.length if self.lamp == "right" else -self.length)
        has_ended = is_out or self.num_steps == self.patience
        return Reaction(self._seen(), float(is_out), has_ended, is_out)

    def close(self) -> None: ...

    def _seen(self) -> Observation:
        return {"lamp": self.lamp, "place": float(self.place)}
