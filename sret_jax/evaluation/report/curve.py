"""How training went, as the report shows it: the score on held-out instances, step by step."""

from collections.abc import Sequence
from typing import NamedTuple

from sret_jax.storage.metrics_file import read_metrics
from sret_jax.storage.workdir import UNTRAINED, Workdir

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 200, 56, 28  # pixels; of the axes


class Validated(NamedTuple):
    """One validation: the step, its score in percent, and the step that was the best by then."""

    step: int
    score: float
    best: int


def read_curve(place: Workdir) -> list[Validated]:
    """The validations that the run in a workdir has logged; none where there is no run, or it did not validate."""
    if place.tag == UNTRAINED:
        return []
    lines = [values for _, values in read_metrics(place.metrics) if {"val_mAP", "val_best_step"} <= values.keys()]
    found = [Validated(int(line["step"]), line["val_mAP"], int(line["val_best_step"])) for line in lines]
    steps = {point.step for point in found}
    return [point for point in found if point.best in steps]  # a line of it may be damaged


def read_losses(place: Workdir) -> list[tuple[int, float]]:
    """(step, loss) of every logged step of the run in a workdir; none where there is no run."""
    lines = [values for _, values in read_metrics(place.metrics) if "loss" in values]
    return [(int(line["step"]), float(line["loss"])) for line in lines]


def curve_section(curve: Sequence[Validated]) -> str:
    """A heading, what was kept, and the curve; "" without validations."""
    if not curve:
        return ""
    kept = curve[-1].best
    scores = {point.step: point.score for point in curve}
    said = f"Step {kept} was kept" if kept else "No step beat the start by more than chance: the start was kept"
    return (
        "<h2>Training</h2>"
        f"<p>mAP on held-out instances, {curve[0].score:.2f} before training. {said}, mAP {scores[kept]:.2f}.</p>"
        f'<div class="box">{_drawing(curve, kept, scores[kept])}</div>'
    )


def _drawing(curve: Sequence[Validated], kept: int, kept_score: float) -> str:
    low, high = min(point.score for point in curve), max(point.score for point in curve)
    margin = max(0.1 * (high - low), 0.05)
    low, high, last = low - margin, high + margin, max(curve[-1].step, 1)

    def place(step: int, score: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 12) * step / last
        y = (HEIGHT - BOTTOM) * (high - score) / (high - low)
        return round(x, 1), round(y, 1)

    points = " ".join("{},{}".format(*place(point.step, point.score)) for point in curve)
    x, y = place(kept, kept_score)
    labels = "".join(
        f'<text x="{LEFT - 8}" y="{place(0, score)[1] + 4}" text-anchor="end">{score:.1f}</text>'
        for score in (low + margin, high - margin)
    )
    labels += "".join(
        f'<text x="{place(step, low)[0]}" y="{HEIGHT - 8}" text-anchor="middle">{step}</text>' for step in (0, last)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="mAP on held-out instances by step" '
        f'style="width:100%;max-width:{WIDTH}px" font-size="12" fill="var(--soft)">'
        f'<path d="M{LEFT},0V{HEIGHT - BOTTOM}H{WIDTH - 12}" fill="none" stroke="var(--line)"/>{labels}'
        f'<polyline points="{points}" fill="none" stroke="var(--accent)" stroke-width="2"/>'
        f'<circle cx="{x}" cy="{y}" r="5" fill="var(--accent)"/></svg>'
    )
