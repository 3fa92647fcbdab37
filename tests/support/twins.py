"""Slow twins of the package's equations: loops over positions, in float64, that can be read beside the papers."""

from fractions import Fraction

import numpy as np


def attention_in_loops(f, g, h, mask):
    f, g, h = (np.asarray(x, np.float64) for x in (f, g, h))
    z = np.zeros_like(h)
    for n in range(len(f)):
        positions = [tuple(i) for i in np.argwhere(np.asarray(mask[n]))]
        for i in positions:
            weights = [np.exp(f[n][i] @ g[n][j] / np.sqrt(f.shape[-1])) for j in positions]
            z[n][i] = sum(w * h[n][j] for w, j in zip(weights, positions, strict=True)) / sum(weights)
    return z


def gem_in_loops(x, p, mask, eps=1e-6):
    """The authors' clamp, power, average, root, photo by photo and channel by channel in float64."""
    x, mask = np.asarray(x, np.float64), np.asarray(mask)
    p = np.broadcast_to(np.asarray(p, np.float64), x.shape[-1])
    out = np.zeros((len(x), x.shape[-1]))
    for n in range(len(x)):
        for c in range(x.shape[-1]):
            values = [max(v, eps) for v, inside in zip(x[n, ..., c].ravel(), mask[n].ravel(), strict=True) if inside]
            out[n, c] = (sum(v ** p[c] for v in values) / len(values)) ** (1 / p[c])
    return out


def scale_gem_in_loops(x, p):
    expected = np.zeros(x.shape[1:])
    for n in range(x.shape[1]):
        scales = np.asarray(x[:, n], np.float64)
        if np.isinf(p):
            expected[n] = -np.inf
            for vector in scales:
                expected[n] = np.maximum(expected[n], vector / np.sqrt(np.sum(vector**2)))
        else:
            least = scales.min()
            expected[n] = (sum((vector - least) ** p for vector in scales) / len(x)) ** (1 / p) + least
    return expected


def unit(v):
    return v / (np.sqrt(np.sum(v**2)) + 1e-6)


def regions_in_loops(height, width):
    """In exact arithmetic: as many more along the long side as bring the overlap of neighbours closest to 0.4."""
    short, more = min(height, width), 0
    if height != width:
        short, beyond = Fraction(short), abs(height - width)
        more = min(range(1, 7), key=lambda n: abs(1 - beyond / (n * short) - Fraction(4, 10)))
    short, found = int(short), []
    for level in (1, 2, 3):
        side = 2 * short // (level + 1)
        rows, columns = (level + more * (a > b) for a, b in ((height, width), (width, height)))
        for i in range(rows):
            for j in range(columns):
                top = i * (height - side) // (rows - 1) if rows > 1 else 0
                left = j * (width - side) // (columns - 1) if columns > 1 else 0
                found += [(top, left, side)] if side else []
    return found


def rmac_in_loops(x, height, width):
    x = np.asarray(x, np.float64)[:height, :width]
    total = unit(x.max((0, 1)))
    for top, left, side in regions_in_loops(height, width):
        total = total + unit(x[top : top + side, left : left + side].max((0, 1)))
    return total


def regional_gem_in_loops(x, height, width, p=2.5, window=5):
    x = np.asarray(x, np.float64)[:height, :width]

    def mirror(i, n):
        while n > 1 and not 0 <= i < n:
            i = -i if i < 0 else 2 * (n - 1) - i
        return i if n > 1 else 0

    out, reach = np.zeros_like(x), window // 2
    for i in range(height):
        for j in range(width):
            total = 0
            for u in range(i - reach, i + reach + 1):
                for v in range(j - reach, j + reach + 1):
                    total = total + x[mirror(u, height), mirror(v, width)] ** p
            out[i, j] = 0.5 * x[i, j] + 0.5 * (total / window**2) ** (1 / p)
    return out


def runs_of(mask: np.ndarray) -> list[int]:
    """Counted pixel by pixel, down the columns, beginning with 0."""
    runs, now = [0], False
    for value in mask.T.ravel():
        if value != now:
            runs.append(0)
            now = value
        runs[-1] += 1
    return runs


def search_over(x):
    def search(queries, k):
        scores = queries @ x.T
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return ids, np.take_along_axis(scores, ids, 1)

    return search
