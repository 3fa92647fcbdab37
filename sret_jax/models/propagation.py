"""METHOD 2, in the span of the features: context as averages over a graph of the strongest local features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Bool, Float

from sret_jax.models.graph import build_graph, node_positions, strongest


def propagate(
    x: Float[Array, "b n c"], weight: Float[Array, "e"], gate: Float[Array, "b n"], graph: jraph.GraphsTuple
) -> Float[Array, "b n c"]:
    """Moves every node towards the weighted mean of its neighbours.

        x'[i] = x[i] + g[i] ( sum_j w[i,j] x[j] / sum_j w[i,j] - x[i] )

    With a gate g in 0..1 and weights w >= 0 every new feature is a convex combination of old ones: a map without
    negative values keeps none, and nothing leaves the span of the photograph's own features. A node without an edge of
    positive weight stays as it is.
    """
    b, n, _ = x.shape
    place = graph.receivers * n + graph.senders % n
    adjacency = jraph.segment_sum(weight, place, b * n * n).reshape(b, n, n)
    total = adjacency.sum(-1, keepdims=True)
    share = adjacency / jnp.maximum(total, 1e-12)
    moved = gate[..., None] * (jnp.einsum("bij,bjc->bic", share, x) - x)
    return x + jnp.where(total > 0, moved, 0)


class PropagationBlock(nn.Module):
    hidden: int = 64
    gate_init: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], graph: jraph.GraphsTuple) -> Float[Array, "b n c"]:
        geometry = graph.edges["geometry"]
        logit = nn.Dense(1, name="weight")(nn.relu(nn.Dense(16, name="geometry")(geometry)))[:, 0]
        weight = jnp.where(graph.edges["valid"], nn.softplus(logit), 0)
        power = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        hidden = nn.relu(nn.Dense(self.hidden, name="reduce")(x * jax.lax.rsqrt(power + 1e-12)))
        gate = nn.Dense(
            1, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.constant(self.gate_init), name="gate"
        )(hidden)[..., 0]
        return propagate(x, weight, nn.sigmoid(gate), graph)


class SpanRefinement(nn.Module):
    blocks: int = 2
    nodes: int = 48
    neighbours: int = 4
    edges: str = "both"
    gate_init: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        b, _, w, c = x.shape
        index, valid = strongest(x, self.nodes, mask)
        at = jnp.stack([index // w, index % w], -1)
        _, extent = node_positions(at, mask)
        before = jnp.take_along_axis(x.reshape(b, -1, c), index[..., None], axis=1).astype(jnp.float32)
        feature = jnp.where(valid[..., None], before, 0)
        graph = build_graph(feature, at, extent, valid, self.neighbours, self.edges)
        for i in range(self.blocks):
            feature = PropagationBlock(gate_init=self.gate_init, name=f"block_{i}")(feature, graph)
        change = jnp.where(valid[..., None], feature - before, 0).astype(x.dtype)
        refined = x.reshape(b, -1, c).at[jnp.arange(b)[:, None], index].add(change).reshape(x.shape)
        return refined, {"nodes": at, "valid": valid}
