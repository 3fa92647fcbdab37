"""How training went, as a picture: loss, learning rate, and the score on held-out instances, step by step."""

import io
import logging

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sret_jax.config import Config, from_dict
from sret_jax.config.run_config import read_run_file
from sret_jax.evaluation.report.curve import Validated, read_curve, read_losses
from sret_jax.storage.artifacts import DamagedError
from sret_jax.storage.workdir import Workdir
from sret_jax.training.optimizer import Lengths, learning_rate

log = logging.getLogger(__name__)

INK, SOFT, LINE, ACCENT = "#1c2430", "#5b6675", "#d5d9df", "#1d5fd1"  # as in a report
SMOOTHED = 15  # parts of a run that the running mean of its losses tells apart


def curve_png(place: Workdir) -> bytes | None:
    """The picture of the run in a workdir; None where it has logged no step. PNG, 900 pixels wide."""
    losses, curve = read_losses(place), read_curve(place)
    if not losses:
        return None
    try:
        run = read_run_file(place.root)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        log.warning("%s; there is no picture of the run", error)
        return None
    config: Config = from_dict(run["config"])
    lengths = tuple((int(done), int(steps)) for done, steps in run.get("lengths", ()))
    panels = 3 if curve else 2
    figure = Figure(figsize=(9, 2.3 * panels), dpi=100, layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True)
    _draw_losses(axes[0], losses)
    last = max(losses[-1][0], curve[-1].step if curve else 0)
    _draw_rate(axes[1], config, lengths, last)
    if curve:
        _draw_scores(axes[2], curve)
    for axis in axes:
        for done, _ in lengths[1:]:
            axis.axvline(done, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.grid(axis="y", color=LINE, linewidth=0.6)
        axis.tick_params(colors=SOFT, labelsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(LINE)
    axes[-1].set_xlabel("step", color=SOFT, fontsize=10)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].set_xlim(-0.01 * last, 1.01 * last)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=10, color=INK)


def _draw_losses(axis: Axes, losses: list[tuple[int, float]]) -> None:
    steps, values = zip(*losses, strict=True)
    window = np.ones(2 * (len(values) // SMOOTHED // 2) + 1)
    smooth = np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
    axis.plot(steps, values, color=ACCENT, linewidth=0.8, alpha=0.45)
    axis.plot(steps, smooth, color=ACCENT, linewidth=1.8)
    _title(axis, f"loss (and its running mean), {values[-1]:.4g} at the end")


def _draw_rate(axis: Axes, config: Config, lengths: Lengths, last: int) -> None:
    steps = np.unique(np.linspace(0, max(last - 1, 0), 500).astype(int))
    rate = learning_rate(config.train, lengths)
    axis.plot(steps + 1, [float(rate(step)) for step in steps], color=ACCENT, linewidth=1.8)
    axis.set_ylim(bottom=0)
    grew = "".join(f", from step {done} on to {total}" for done, total in lengths[1:])
    _title(axis, f"learning rate of the heads, {config.train.schedule}{grew}")


def _draw_scores(axis: Axes, curve: list[Validated]) -> None:
    kept = curve[-1].best
    scores = {point.step: point.score for point in curve}
    axis.plot(list(scores), list(scores.values()), color=ACCENT, linewidth=1.8, marker="o", markersize=3.5)
    axis.plot([kept], [scores[kept]], "o", color=ACCENT, markersize=9, markerfacecolor="white", markeredgewidth=2)
    axis.axhline(curve[0].score, color=SOFT, linewidth=0.8, linestyle=(0, (1, 2)))
    said = f"step {kept} was kept, {scores[kept]:.2f}" if kept else "the start was kept"
    _title(axis, f"mAP on held-out instances, %; {curve[0].score:.2f} before training; {said}")
