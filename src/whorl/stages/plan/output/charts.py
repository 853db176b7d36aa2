"""Small SVG drawings for the page: stacked bars, curves, a scatter, devices on their nodes.

Colours are CSS variables of the page (light and dark); every text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

__all__ = ["MAX_NODE_ROWS", "nodes", "plot", "stacked_bar"]

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 44
NUM_COLOURS = 8
MAX_NODE_ROWS = 16
TICKS = 5  # of an axis, about
Point = tuple[float, float]
Format = Callable[[float], str]


def _svg(width: float, height: float, title: str, inside: Sequence[str]) -> str:
    body = "".join(inside)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _colour(index: int) -> str:
    return f"var(--c{index % NUM_COLOURS})"


def stacked_bar(
    parts: Mapping[str, float], show: Format, title: str, limit: tuple[str, float] | None = None
) -> str:
    """One bar made of parts, with its legend; limit (name, value) is drawn as a line."""
    items = sorted(((n, v) for n, v in parts.items() if v > 0), key=lambda item: -item[1])
    if len(items) > NUM_COLOURS:
        small = sum(value for _, value in items[NUM_COLOURS - 1 :])
        items = [*items[: NUM_COLOURS - 1], ("smaller parts", small)]
    total = sum(value for _, value in items) or 1.0
    scale = WIDTH / max(total, limit[1] if limit else 0.0)
    drawn, x = [], 0.0
    for index, (name, value) in enumerate(items):
        width = max(0.0, value * scale - 1)
        drawn.append(
            f'<rect x="{x:.1f}" y="6" width="{width:.1f}" height="30" fill="{_colour(index)}">'
            f"<title>{escape(name)}: {escape(show(value))}</title></rect>"
        )
        x += value * scale
    if limit:
        at = min(limit[1] * scale, WIDTH - 1)
        drawn.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="42"/>')
    rows = [
        f'<tr><td><i style="background:{_colour(index)}"></i>{escape(name)}</td>'
        f"<td>{escape(show(value))}</td><td>{100 * value / total:.0f}%</td></tr>"
        for index, (name, value) in enumerate(items)
    ]
    if limit:
        rows.append(
            f'<tr class="limit"><td>{escape(limit[0])}</td><td>{escape(show(limit[1]))}</td>'
            f"<td>{100 * limit[1] / total:.0f}%</td></tr>"
        )
    return f"{_svg(WIDTH, 42, title, drawn)}<table>{''.join(rows)}</table>"


class _Axes:
    """Data to pixels, x logarithmic or not, with a little room around the points."""

    def __init__(self, points: Sequence[Point], log_x: bool) -> None:
        self.log_x = log_x
        self.spans = []
        for values in zip(*map(self._placed, points), strict=True):
            low, high = min(values), max(values)
            room = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
            self.spans.append((low - room, high + room))

    def _placed(self, point: Point) -> Point:
        return (math.log10(max(point[0], 1e-300)) if self.log_x else point[0]), point[1]

    def at(self, point: Point) -> Point:
        x, y = (
            (value - low) / (high - low)
            for value, (low, high) in zip(self._placed(point), self.spans, strict=True)
        )
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    def ticks(self, axis: int) -> list[float]:
        """Round values inside the span."""
        low, high = self.spans[axis]
        if self.log_x and axis == 0:
            decades = range(math.ceil(low), math.floor(high) + 1)
            if len(decades) >= 2:
                every = -(-len(decades) // TICKS)
                return [10.0**power for power in decades if power % every == 0]
            low, high = 10**low, 10**high
        rough = (high - low) / TICKS
        scale = 10 ** math.floor(math.log10(rough))
        step = next(scale * n for n in (1, 2, 5, 10) if scale * n >= rough)
        first = math.ceil(low / step)
        return [n * step for n in range(first, math.floor(high / step) + 1)]

    def draw(self, names: tuple[str, str], show: tuple[Format, Format]) -> list[str]:
        drawn = []
        x0, x1, y0, y1 = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, TOP
        (left, _), (bottom, _) = self.spans
        anchor = (10**left if self.log_x else left, bottom)
        for value in self.ticks(0):
            x = self.at((value, anchor[1]))[0]
            drawn.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{y0}" y2="{y1}"/>')
            drawn.append(_text(x, y0 + 15, show[0](value)))
        for value in self.ticks(1):
            y = self.at((anchor[0], value))[1]
            drawn.append(f'<line class="grid" x1="{x0}" x2="{x1}" y1="{y:.1f}" y2="{y:.1f}"/>')
            drawn.append(_text(x0 - 6, y + 4, show[1](value), "end"))
        drawn.append(_text((x0 + x1) / 2, HEIGHT - 8, names[0], kind="name"))
        middle = (y0 + y1) / 2
        drawn.append(
            f'<text class="name" text-anchor="middle" transform="translate(11 {middle:g}) '
            f'rotate(-90)">{escape(names[1])}</text>'
        )
        return drawn

    def path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.at, points))


def _mark(axes: _Axes, point: Point, text: str) -> str:
    """A dot with a label on the side that has room."""
    x, y = axes.at(point)
    anchor, x_text = ("end", x - 9) if x > 0.75 * WIDTH else ("start", x + 9)
    return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5"/>' + _text(
        x_text, y - 7 if y > TOP + 20 else y + 15, text, anchor, "label"
    )


def plot(
    points: Sequence[tuple[float, float, str]],
    chosen: tuple[float, float, str],
    names: tuple[str, str],
    show: tuple[Format, Format],
    band: Sequence[tuple[float, float, float]] = (),
) -> str:
    """Points (x, y, name) joined by a line, one marked; with a band (x, low, high), x is log."""
    line, mark = sorted(point[:2] for point in points), chosen[:2]
    around = [(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)]
    axes = _Axes([*line, *around, mark], bool(band))
    drawn = axes.draw(names, show)
    if around:
        drawn.append(f'<polygon class="band" points="{axes.path(around)}"/>')
    drawn.append(f'<polyline class="line" points="{axes.path(line)}"/>')
    for x, y, name in points:
        at = axes.at((x, y))
        drawn.append(
            f'<circle class="dot" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3">'
            f"<title>{escape(name)}: {escape(show[0](x))}, {escape(show[1](y))}</title></circle>"
        )
    drawn.append(_mark(axes, mark, chosen[2]))
    return _svg(WIDTH, HEIGHT, f"{names[1]} against {names[0]}", drawn)


def nodes(tp: int, cp: int, pp: int, dp: int, node_devices: int) -> str:
    """The first node of every pipeline stage; a cell is a device, its colour the model replica.

    Ranks are ordered tp, cp, dp, pp, the order of Megatron's process groups.
    """
    per_replica = tp * cp
    across = min(node_devices, tp * cp * pp * dp, 16)
    size, rows = (WIDTH - 62) / across, min(pp, MAX_NODE_ROWS)
    height = min(size, 26.0)
    drawn = []
    for stage in range(rows):
        y = stage * (height + 5)
        drawn.append(_text(0, y + height / 2 + 4, f"stage {stage}", "start"))
        for slot in range(across):
            rank = stage * per_replica * dp + slot
            replica, inside = rank // per_replica % dp, rank % per_replica
            name = f"rank {rank}: pipeline stage {rank // (per_replica * dp)}, "
            name += f"replica {replica}, context part {inside // tp}, tensor part {inside % tp}"
            x = 62 + slot * size
            drawn.append(
                f'<g><title>{name}</title><rect x="{x:.1f}" y="{y:.1f}" width="{size - 2:.1f}" '
                f'height="{height:.1f}" rx="3" fill="{_colour(replica)}"/>'
            )
            drawn.append(
                f"{_text(x + size / 2 - 1, y + height / 2 + 4, str(rank), kind='cell')}</g>"
            )
    return _svg(WIDTH, rows * (height + 5), "layout on the nodes", drawn)
