"""A scatter plot as SVG text, readable on light and dark pages."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 520
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
LABEL_HEIGHT, LETTER = 11, 7.2  # pixels
SHIFTS = (0, -5, 5, -9, 9)  # of a label, in pixels
STYLE = """
text { font: 11px sans-serif; fill: #24292f } .title { font-size: 14px; font-weight: bold } .ours { font-weight: bold }
.grid { stroke: #8885; stroke-width: 1 } .dot { fill: #57606a } .dot.ours { fill: #0969da } text.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
text { fill: #d0d7de } .dot { fill: #9ea7b0 } .dot.ours { fill: #58a6ff } text.ours { fill: #58a6ff } }
"""


@dataclass(frozen=True, slots=True)
class Point:
    """x, y: in units of the axes; y > 0.  ours: drawn in another colour."""

    label: str
    x: float
    y: float
    ours: bool = False


def scatter(points: Sequence[Point], title: str, x_title: str, y_title: str) -> str:
    """x in steps of a tenth; y on a logarithmic axis with a line for each decade."""
    low_x, high_x = math.floor(10 * min(p.x for p in points)) / 10, math.ceil(10 * max(p.x for p in points)) / 10
    low_y, high_y = math.log10(min(p.y for p in points)) - 0.1, math.log10(max(p.y for p in points)) + 0.1

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - low_x) / (high_x - low_x)

    def at_y(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high_y - math.log10(y)) / (high_y - low_y)

    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>']
    for tenth in range(round(10 * low_x), round(10 * high_x) + 1):
        x = at_x(tenth / 10)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tenth / 10:.1f}</text>')
    for decade in range(math.ceil(low_y), math.floor(high_y) + 1):
        y = at_y(10.0**decade)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>')
    middle = f"{(LEFT + WIDTH - RIGHT) / 2:.0f}", f"{(TOP + HEIGHT - BOTTOM) / 2:.0f}"
    parts.append(f'<text x="{middle[0]}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_title)}</text>')
    parts.append(f'<text transform="translate(16 {middle[1]}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>')
    parts += _dots([(p, at_x(p.x), at_y(p.y)) for p in points])
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img">\n<style>{STYLE}</style>\n{body}\n</svg>\n'


def _dots(placed: Sequence[tuple[Point, float, float]]) -> list[str]:
    """Each with its label beside it, a little higher or lower where it would cover another label or a dot."""
    parts: list[str] = []
    taken = [(x - 4, x + 4, y) for _, x, y in placed]
    for point, x, y in sorted(placed, key=lambda item: item[2]):
        length, mark = LETTER * len(point.label), ' class="ours"' if point.ours else ""
        sides = [(begin, y + dy) for dy in SHIFTS for begin in (x + 7, x - 7 - length)]
        begin, at_y = next((side for side in sides if _free(side[0], side[0] + length, side[1], taken)), sides[0])
        taken.append((begin, begin + length, at_y))
        anchor, at = ("start", begin) if begin > x else ("end", begin + length)
        parts.append(f'<circle class="dot{" ours" if point.ours else ""}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text{mark} x="{at:.1f}" y="{at_y + 4:.1f}" text-anchor="{anchor}">{escape(point.label)}</text>')
    return parts


def _free(begin: float, end: float, y: float, taken: Sequence[tuple[float, float, float]]) -> bool:
    inside = begin > LEFT and end < WIDTH and TOP < y < HEIGHT - BOTTOM
    return inside and not any(abs(y - other) < LABEL_HEIGHT and begin < to and start < end for start, to, other in taken)
