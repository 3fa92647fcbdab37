"""Learnable smoothing against the three usual ways to write it: time and extra memory, forward and with the gradient.

    python benchmarks/smoothing.py [--shape 8 16 16 1280] [--window 5] [--rounds 20] [--save]

- gather: index the K^2 neighbours of every position, one einsum.
- shifted views: sum over K^2 slices of the padded map, gradient by autodiff.
- banded product: one (positions x positions) matrix per photo, zero off the band, times the map.

Each contender computes its own weights from the kernel features, with a mask. "with gradient" is the forward pass and
the pullback of a given cotangent to x, f, a and c. Extra memory is what the compiled program allocates beside its
arguments and results, in units of the map. A ratio compares two contenders round by round; the median is printed. The
difference from gather is that of the worst result, relative to its largest entry.
"""

import argparse
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from timing import command, interleaved, machine, save

from sret_jax.models.smoothing import smooth

KERNEL_DIM = 16


def neighbours(h: int, w: int, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns [h w k] of the window of each position, clipped, and which of them lie inside."""
    steps = np.arange(window) - window // 2
    rows = np.arange(h)[:, None, None, None] + steps[:, None]
    columns = np.arange(w)[:, None, None] + steps
    rows, columns = (z.reshape(h, w, -1) for z in np.broadcast_arrays(rows, columns))
    return rows.clip(0, h - 1), columns.clip(0, w - 1), (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)


def weights(f, a, c, mask, window):
    rows, columns, inside = neighbours(*f.shape[1:3], window)
    w = jnp.exp(-a[..., None] * jnp.sum((f[:, :, :, None] - f[:, rows, columns]) ** 2, -1))
    w = jnp.where(np.arange(window**2) == window**2 // 2, c[..., None], w)
    w = jnp.where(inside & mask[..., None] & mask[:, rows, columns], w, 0)
    return w / (1e-10 + w.sum(-1, keepdims=True))


def gather(x, f, a, c, mask, window):
    rows, columns, _ = neighbours(*x.shape[1:3], window)
    return jnp.einsum("bhwk,bhwkc->bhwc", weights(f, a, c, mask, window), x[:, rows, columns])


def shifted_views(x, f, a, c, mask, window):
    h, w = x.shape[1:3]
    reach = window // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    share = weights(f, a, c, mask, window)
    views = [padded[:, i : i + h, j : j + w] for i in range(window) for j in range(window)]
    return sum(share[..., k, None] * view for k, view in enumerate(views))


def banded_product(x, f, a, c, mask, window):
    b, h, w, _ = x.shape
    row, column = np.divmod(np.arange(h * w), w)
    reach = window // 2
    band = (abs(row[:, None] - row) <= reach) & (abs(column[:, None] - column) <= reach)
    f, a, c, mask = (z.reshape(b, h * w, *z.shape[3:]) for z in (f, a, c, mask))
    power = jnp.sum(f**2, -1)
    distance = power[:, :, None] + power[:, None, :] - 2 * jnp.einsum("bnd,bmd->bnm", f, f)
    matrix = jnp.where(np.eye(h * w, dtype=bool), c[..., None], jnp.exp(-a[..., None] * jnp.maximum(distance, 0)))
    matrix = jnp.where(band & mask[:, :, None] & mask[:, None, :], matrix, 0)
    matrix = matrix / (1e-10 + matrix.sum(-1, keepdims=True))
    return jnp.einsum("bnm,bmc->bnc", matrix, x.reshape(b, h * w, -1)).reshape(x.shape)


def ours(x, f, a, c, mask, window):
    return smooth(x, f, a, c, window=window, mask=mask)


CONTENDERS = {f.__name__.replace("_", " "): f for f in (ours, shifted_views, banded_product, gather)}


def arguments(shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    mask = np.ones(shape[:3], bool)
    mask[0, :, 3 * shape[2] // 4 :] = False
    x, g = rng.normal(size=(2, *shape))
    f = rng.normal(size=(*shape[:3], KERNEL_DIM)) / 4
    a, c = rng.uniform(0.1, 2, size=(2, *shape[:3]))
    return *(jnp.asarray(z, jnp.float32) for z in (x, f, a, c, g)), jnp.asarray(mask)


def with_gradient(function: Callable, window: int) -> Callable:
    def step(x, f, a, c, g, mask):
        y, pullback = jax.vjp(lambda *z: function(*z, mask, window), x, f, a, c)
        return y, pullback(g)

    return step


def forward(function: Callable, window: int) -> Callable:
    return lambda x, f, a, c, g, mask: function(x, f, a, c, mask, window)


def floor(shape: tuple[int, ...], window: int, rounds: int) -> list[str]:
    """The least any way can take: each map moved once, each multiply-add done once, at the speeds measured here."""
    elements = math.prod(shape)
    x, m = jnp.ones(shape, jnp.float32), jnp.ones((2048, 2048), jnp.float32)
    copy, product = jax.jit(lambda z: z + 1), jax.jit(lambda z: z @ z)
    seconds = interleaved({"copy": lambda: copy(x), "product": lambda: product(m)}, rounds)
    bandwidth = 8 * elements / seconds["copy"].min()
    rate = 2 * 2048**3 / seconds["product"].min()
    lines = [f"measured here: {bandwidth / 1e9:.1f} GB/s (map + 1), {rate / 1e9:.0f} GFLOP/s (2048 x 2048 product)"]
    for name, maps, passes in (("forward", 2, 1), ("with gradient", 5, 3)):
        moved, flop = 4 * maps * elements, 2 * window**2 * passes * elements
        lines.append(
            f"floor, {name}: {maps} maps = {moved / 1e6:.0f} MB = {1e3 * moved / bandwidth:.1f} ms; "
            f"{flop / 1e9:.2f} GFLOP = {1e3 * flop / rate:.1f} ms"
        )
    return lines


def measure(kind: Callable, args: tuple, window: int, rounds: int, title: str) -> list[str]:
    jitted = {name: jax.jit(kind(function, window)).lower(*args).compile() for name, function in CONTENDERS.items()}
    results = {name: [np.asarray(z) for z in jax.tree.leaves(call(*args))] for name, call in jitted.items()}
    error = {
        name: max(np.abs(u - v).max() / np.abs(v).max() for u, v in zip(result, results["gather"], strict=True))
        for name, result in results.items()
    }
    del results
    seconds = interleaved({name: lambda call=call: call(*args) for name, call in jitted.items()}, rounds)
    lines = [f"| {title} | least ms | median ms | ours / this | extra memory, maps | difference from gather |"]
    lines.append("|---" * 6 + "|")
    for name, call in jitted.items():
        memory = call.memory_analysis().temp_size_in_bytes / args[0].nbytes
        least, median = 1e3 * seconds[name].min(), 1e3 * np.median(seconds[name])
        ratio = np.median(seconds["ours"] / seconds[name])
        lines.append(f"| {name} | {least:.1f} | {median:.1f} | {ratio:.2f} | {memory:.2f} | {error[name]:.0e} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=4, default=[8, 16, 16, 1280], metavar=("B", "H", "W", "C"))
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--save", action="store_true", help="keep the table under benchmarks/results")
    options = parser.parse_args()
    args = arguments(tuple(options.shape))
    size = " x ".join(map(str, options.shape))
    lines = [f"# Smoothing {size}, window {options.window}, float32", "", machine(), "", command(), ""]
    lines += [f"- {line}" for line in floor(options.shape, options.window, options.rounds)] + [""]
    lines += [*measure(forward, args, options.window, options.rounds, "forward"), ""]
    lines += measure(with_gradient, args, options.window, options.rounds, "with gradient")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.save:
        print("saved", save("smoothing", text))


if __name__ == "__main__":
    main()
