"""What the network makes of a few photographs: its maps and its graph, as far as they have been learned."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.report.album import Album, named
from sret_jax.evaluation.report.pictures import content, escaped, heat_map, node_graph

LEARNED = ("smoothing", "refinement")
GRAPH = "edge_valid"  # one of the entries of `models.graph.described`
TITLES = {"a": "a: bright keeps to itself", "c": "c: dark gives way to its neighbours"}


def untrained_parts(params: Mapping[str, Any]) -> list[str]:
    """Those of `LEARNED` that the network has and nothing has trained: a layer of theirs that starts at zero still is.

    Args:
      params: of the network, by module.
    """
    found = []
    for part in LEARNED:
        leaves = jax.tree_util.tree_leaves_with_path(params.get(part, {}))
        kernels = [leaf for path, leaf in leaves if getattr(path[-1], "key", "") == "kernel"]
        if any(not np.any(kernel) for kernel in kernels):
            found.append(part)
    return found


def maps_section(
    queries: PhotoSet, intermediates: Mapping[int, dict[str, Any]], untrained: Collection[str], album: Album
) -> str:
    """Strength of the local features, `a`, `c` and the graph; "" without any. What is untrained is said, not shown."""
    if not intermediates:
        return ""
    rows = []
    for row, values in intermediates.items():
        photo, mask, name = queries.photo(row), values["photo_mask"], queries.names[row]
        maps = [("strength of the features", np.linalg.norm(values["map"].astype(np.float32), axis=-1))]
        seen = {part: values[part] for part in LEARNED if part in values and part not in untrained}
        graph = seen.pop("refinement") if GRAPH in seen.get("refinement", {}) else None
        for one in seen.values():  # of somebody's own refinement or smoothing whatever is a map, by its name
            maps += [(TITLES.get(name, name), x) for name, x in one.items() if np.shape(x) == values["map"].shape[:2]]
        figures = [(content(photo, mask), named(name))]
        for title, value in maps:
            image, low, high = heat_map(photo, value, mask)
            span = f"{low:.3g} to {high:.3g}" if f"{low:.3g}" != f"{high:.3g}" else f"{low:.3g} everywhere"
            figures.append((image, escaped(f"{title} ({span})")))
        if graph is not None:
            nodes = int(np.sum(graph["valid"]))
            figures.append((node_graph(photo, graph, values["map"].shape[:2], mask), f"{nodes} nodes and their edges"))
        drawn = "".join(album.figure(image, name, caption) for image, caption in figures)
        rows.append(f'<div class="row maps">{drawn}</div>')
    said = ""
    if untrained:
        have = "has" if len(untrained) == 1 else "have"
        what = " and ".join(untrained).capitalize()
        said = f"<p>{what} {have} not been trained, and what they compute is not shown.</p>"
    return f'<details class="box"><summary>What the network sees</summary>{said}{"".join(rows)}</details>'
