"""METHOD 2 in the span of the features: context as averages over the graph of the strongest local features.

The free form of `graph.py` adds whatever a perceptron makes of a node and its neighbours, and with a few hundred
training instances learns what does not carry over. Here a node can only move towards the mean of its neighbours and
become stronger or weaker.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sret_jax.models.controls import shuffled_order
from sret_jax.models.graph import Graph, adjacency, build_graph, described, node_positions, strongest
from sret_jax.models.pooling import root_mean_square

GATE = -2.0  # a gate before its sigmoid, at the start: nearly closed, as a graph that has not trained should do little


def propagate(
    x: Float[Array, "b n c"], weight: Float[Array, "e"], gate: Float[Array, "b n"], graph: Graph
) -> Float[Array, "b n c"]:
    """Moves every node towards the weighted mean of its neighbours.

        x'[i] = x[i] + g[i] ( sum_j w[i,j] x[j] / sum_j w[i,j] - x[i] )

    With a gate g in 0..1 and weights w >= 0 every new feature is a convex combination of old ones. A node without an
    edge of positive weight stays as it is.
    """
    weights = adjacency(weight, graph, x.shape[0])
    total = weights.sum(-1, keepdims=True)
    mean = jnp.einsum("bij,bjc->bic", weights / jnp.maximum(total, 1e-12), x, precision="highest")
    return x + jnp.where(total > 0, gate[..., None] * (mean - x), 0)


class PropagationBlock(nn.Module):
    """`propagate` with weights learned from the edges' geometry and a gate from the node's feature.

    Before training every node moves an eighth of the way to the mean of its neighbours, which count nearly alike.
    """

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], graph: Graph) -> Float[Array, "b n c"]:
        logit = nn.Dense(1, name="weight")(nn.relu(nn.Dense(16, name="geometry")(graph.edges["geometry"])))[:, 0]
        weight = jnp.where(graph.edges["valid"], nn.softplus(logit), 0)
        hidden = nn.relu(nn.Dense(self.hidden, name="reduce")(x / root_mean_square(x)))
        start = nn.initializers.constant(GATE)
        gate = nn.Dense(1, kernel_init=nn.initializers.zeros, bias_init=start, name="gate")(hidden)[..., 0]
        return propagate(x, weight, nn.sigmoid(gate), graph)


class SpanRefinement(nn.Module):
    """Refines the strongest local features with averages of their neighbours on the graph, block after block.

    With `importance` every node is then multiplied by a weight, 0..2, learned from its own feature and from what
    its context has changed of it: what stands alone and what is one of many windows need not count the same.

    Args:
        blocks: propagation blocks; each passes the nodes on to the next.
        nodes: strongest local features, by L2 norm, that become nodes.
        neighbours: edges per node in space, and again in feature similarity.
        hidden: channels of the layers that gate and weigh a node.
        edges: "both" kinds, or only those of "space" or of "similarity".
        importance: whether nodes are weighed.
        shuffled: every node has another's position, as a control.
    """

    blocks: int = 2
    nodes: int = 48
    neighbours: int = 4
    hidden: int = 64
    edges: str = "both"
    importance: bool = True
    shuffled: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        """The refined map, and the graph as `described`."""
        b, _, w, c = x.shape
        index, valid = strongest(x, self.nodes, mask)
        at = jnp.stack([index // w, index % w], -1)
        if self.shuffled:
            at = at[:, shuffled_order(self.nodes)]
        _, extent = node_positions(at, mask)
        picked = jnp.take_along_axis(x.reshape(b, -1, c), index[..., None], axis=1).astype(jnp.float32)
        feature = before = jnp.where(valid[..., None], picked, 0)
        graph = build_graph(feature, at, extent, valid, self.neighbours, self.edges)
        for i in range(self.blocks):
            feature = PropagationBlock(self.hidden, name=f"block_{i}")(feature, graph)
        if self.importance:
            scale = root_mean_square(before)
            hidden = nn.Dense(self.hidden, name="own")(before / scale)
            hidden = nn.relu(hidden + nn.Dense(self.hidden, name="context")((feature - before) / scale))
            logit = nn.Dense(1, kernel_init=nn.initializers.zeros, name="importance")(hidden)
            feature = 2 * nn.sigmoid(logit) * feature
        change = jnp.where(valid[..., None], feature - before, 0).astype(x.dtype)
        refined = x.reshape(b, -1, c).at[jnp.arange(b)[:, None], index].add(change).reshape(x.shape)
        return refined, described(graph, at, valid)
