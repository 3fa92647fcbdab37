"""METHOD 2, spatial-context-aware refinement: a graph network over the strongest local features of a photo.

The batch is one `jraph.GraphsTuple` of fixed size: b graphs of n nodes, and for every node as receiver one edge from
itself, k from its nearest nodes in space and k from its most similar in feature, in this order. Slots that hold no edge
(a dead node, a duplicate, too few nodes) are marked invalid and lead from a node to itself, where weight zero keeps
them without effect on sums and on degrees.
"""

from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Bool, Float, Float32, Int32

from sret_jax.models.controls import shuffled_order
from sret_jax.models.pooling import l2_normalize
from sret_jax.models.shapes import Size, known

Graph: TypeAlias = jraph.GraphsTuple


def strongest(
    x: Float[Array, "b h w c"], k: int, mask: Bool[Array, "b h w"], scores: Float[Array, "b h w"] | None = None
) -> tuple[Int32[Array, "b {k}"], Bool[Array, "b {k}"]]:
    """The k strongest positions of each map, strongest first: flat indices (row * w + column) and which of them exist.

    Strength is `scores`, or the L2 norm of the local feature. The earlier position wins a tie. Positions outside the
    mask are never chosen; where fewer than k are left the rest is invalid, with index 0.
    """
    strength = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1) if scores is None else scores
    strength = jnp.where(mask, strength, -jnp.inf).reshape(x.shape[0], -1)
    positions = strength.shape[1]
    missing = max(0, k - positions) if known(positions) else k  # more of them change nothing: they are never chosen
    strength = jnp.pad(strength, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    strength, index = jax.lax.top_k(strength, k)
    valid = strength > -jnp.inf
    return jnp.where(valid, index, 0).astype(jnp.int32), valid


def build_graph(
    features: Float[Array, "b n c"],
    at: Int32[Array, "b n 2"],
    extent: Float32[Array, "b"],
    valid: Bool[Array, "b n"],
    neighbours: int,
    kinds: str = "both",
) -> Graph:
    """Joins every node to itself, its nearest nodes in space and its most similar nodes in feature.

    Args:
        features: compared by cosine.
        at: (row, column) of every node. Nearness is exact in these whole numbers; the earlier node wins a tie.
        extent: longest side of the photo, in positions: geometry is divided by it and so free of resolution.
        valid: which nodes exist.
        neighbours: k, of each kind. With fewer other nodes than k, all of them.
        kinds: "both", or only "space" or "similarity"; the edges of the other kind are there but not valid.

    Returns:
        nodes [b*n, c] the features; edges {"geometry": [b*n*(1+2k), 4], "valid": [b*n*(1+2k)]}, where the geometry is
        the relative position of the sender (row, column), its distance, and the cosine similarity.
    """
    b, n, _ = features.shape
    k = min(neighbours, n - 1)
    unit = l2_normalize(features.astype(jnp.float32))
    cosine = jnp.einsum("bic,bjc->bij", unit, unit, precision="highest")
    offset = at[:, None, :, :] - at[:, :, None, :]  # [b receiver sender 2]
    other = valid[:, None, :] & valid[:, :, None] & ~jnp.eye(n, dtype=bool)[None]

    def best(likeness: Array) -> tuple[Array, Array]:
        value, sender = jax.lax.top_k(jnp.where(other, likeness, -jnp.inf), k)
        return sender, value > -jnp.inf

    near, near_valid = best(-jnp.sum(offset**2, axis=-1).astype(jnp.float32))
    alike, alike_valid = best(jax.lax.stop_gradient(cosine))
    near_valid, alike_valid = near_valid & (kinds != "similarity"), alike_valid & (kinds != "space")
    duplicate = jnp.any((alike[..., :, None] == near[..., None, :]) & near_valid[..., None, :], axis=-1)
    itself = jnp.broadcast_to(jnp.arange(n)[None, :, None], (b, n, 1))
    sender = jnp.concatenate([itself, near, alike], -1)
    edge = jnp.concatenate([valid[..., None], near_valid, alike_valid & ~duplicate], -1)
    sender = jnp.where(edge, sender, itself)

    relative = jnp.take_along_axis(offset, sender[..., None], axis=2) / extent[:, None, None, None]
    distance = jnp.sqrt(jnp.sum(relative**2, axis=-1))
    geometry = [relative[..., 0], relative[..., 1], distance, jnp.take_along_axis(cosine, sender, axis=2)]
    first = n * jnp.arange(b)[:, None, None]
    return jraph.GraphsTuple(
        nodes=features.reshape(b * n, -1),
        edges={"geometry": jnp.stack(geometry, -1).reshape(-1, 4), "valid": edge.reshape(-1)},
        senders=(sender + first).reshape(-1),
        receivers=jnp.broadcast_to(itself + first, sender.shape).reshape(-1),
        n_node=jnp.full((b,), n),
        n_edge=jnp.full((b,), n * sender.shape[-1]),
        globals=None,
    )


def aggregate(
    values: Float[Array, "n d"], weight: Float[Array, "e"], senders: Int32[Array, "e"], receivers: Int32[Array, "e"]
) -> Float[Array, "n d"]:
    """Weighted sum of the senders' values at each receiver, with symmetric degree normalisation.

        out[i] = sum_j A[i,j] / sqrt(in[i] out[j]) values[j],    in[i] = sum_j A[i,j],  out[j] = sum_i A[i,j]

    A is the weighted adjacency; the identity leaves the values as they are, equal weights everywhere average them.

    Reference: Kipf, Welling, Semi-supervised classification with graph convolutional networks, ICLR 2017, eq. 2, for
    directed edges.
    """
    n = values.shape[0]
    received = jraph.segment_sum(weight, receivers, n, indices_are_sorted=True)
    sent = jraph.segment_sum(weight, senders, n)
    weight = weight * jax.lax.rsqrt(jnp.maximum(received[receivers] * sent[senders], 1e-12))
    return jraph.segment_sum(weight[:, None] * values[senders], receivers, n, indices_are_sorted=True)


def adjacency(weight: Float[Array, "e"], graph: Graph, photos: Size) -> Float[Array, "b n n"]:
    """A[b, i, j], the weight of the edge from node j to node i of photograph b; edges that are there twice add up.

    Args:
        weight: of every edge of `graph`, 0 where there is none.
        photos: b; all have n nodes.
    """
    n = graph.nodes.shape[0] // photos
    place = graph.receivers * n + graph.senders % n
    return jraph.segment_sum(weight, place, photos * n * n).reshape(photos, n, n)


class RefinementBlock(nn.Module):
    """h' = h + W sum_edges weight norm LayerNorm(h);  h'' = h' + MLP(LayerNorm(h')).

    The weight of an edge, 0..1, is a learned function of its geometry.
    """

    width: int

    @nn.compact
    def __call__(self, h: Float[Array, "n d"], graph: Graph) -> Float[Array, "n d"]:
        geometry = graph.edges["geometry"]
        logit = nn.Dense(1, name="weight")(nn.relu(nn.Dense(16, name="geometry")(geometry)))[:, 0]
        weight = jnp.where(graph.edges["valid"], nn.sigmoid(logit), 0)
        message = aggregate(nn.LayerNorm(name="message_norm")(h), weight, graph.senders, graph.receivers)
        h = h + nn.Dense(self.width, name="message")(message)
        hidden = nn.relu(nn.Dense(2 * self.width, name="expand")(nn.LayerNorm(name="norm")(h)))
        return h + nn.Dense(self.width, name="reduce")(hidden)


class SpatialContextRefinement(nn.Module):
    """Refines the strongest local features with a graph network and adds the change back into the map.

    The node's feature is divided by its root mean square and the change multiplied by it, so that the layer is free of
    the scale of the backbone's map. The last projection starts at zero: before training the layer is the identity.

    Args:
        blocks: message-passing blocks; each passes the nodes on to the next.
        width: channels of a node.
        nodes: strongest local features that become nodes.
        neighbours: edges per node in space, and again in feature similarity.
        strength: "norm", or "attention": the norm times a learned factor, which also gates the node (so it is trained).
        rebuild: find the most similar nodes again before every block, from the nodes as they then are.
        edges: "both" kinds, or only those of "space" or of "similarity".
        shuffled: every node has another's position, as a control.
    """

    blocks: int = 2
    width: int = 256
    nodes: int = 32
    neighbours: int = 4
    strength: str = "norm"
    rebuild: bool = False
    edges: str = "both"
    shuffled: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        """The refined map and the graph of the last block, as `described`."""
        b, _, w, c = x.shape
        power = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
        scale = jnp.sqrt(jnp.maximum(power, 1e-12))
        scores = None
        if self.strength == "attention":
            factor = nn.Dense(1, kernel_init=nn.initializers.zeros, name="attention")(x / scale)[..., 0]
            greatest = jnp.max(jnp.where(mask[..., None], scale, 1e-6), axis=(1, 2), keepdims=True)
            scores = factor + jnp.log(scale / greatest)[..., 0]
        index, valid = strongest(x, self.nodes, mask, scores)
        at = jnp.stack([index // w, index % w], -1)
        if self.shuffled:
            at = at[:, shuffled_order(self.nodes)]

        def pick(z: Array) -> Array:
            return jnp.take_along_axis(z.reshape(b, -1, z.shape[-1]), index[..., None], axis=1)

        position, extent = node_positions(at, mask)
        feature = jnp.where(valid[..., None], pick(x) / pick(scale), 0)
        h = nn.Dense(self.width, name="project")(feature)
        if scores is not None:
            h = h * 2 * nn.sigmoid(pick(scores[..., None]))
        h = h + nn.Dense(self.width, name="position")(_waves(position))
        h = h.reshape(-1, self.width)
        graph = build_graph(feature, at, extent, valid, self.neighbours, self.edges)
        for i in range(self.blocks):
            if self.rebuild and i > 0:
                graph = build_graph(h.reshape(b, -1, self.width), at, extent, valid, self.neighbours, self.edges)
            h = RefinementBlock(self.width, name=f"block_{i}")(h, graph)

        change = nn.Dense(c, kernel_init=nn.initializers.zeros, name="restore")(h).reshape(b, -1, c)
        change = jnp.where(valid[..., None], change * pick(scale), 0).astype(x.dtype)
        refined = x.reshape(b, -1, c).at[jnp.arange(b)[:, None], index].add(change).reshape(x.shape)
        return refined, described(graph, at, valid)


def described(graph: Graph, at: Int32[Array, "b n 2"], valid: Bool[Array, "b n"]) -> dict[str, Array]:
    """The graph of each photo: "nodes" [b n 2] (row, column), "valid" [b n]; "senders", "receivers" [b e] (nodes of the
    same photo) and "edge_valid" [b e].
    """
    b, n = valid.shape
    first = n * jnp.arange(b)[:, None]
    return {
        "nodes": at,
        "valid": valid,
        "senders": graph.senders.reshape(b, -1) - first,
        "receivers": graph.receivers.reshape(b, -1) - first,
        "edge_valid": graph.edges["valid"].reshape(b, -1),
    }


def node_positions(
    at: Int32[Array, "b n 2"], mask: Bool[Array, "b h w"]
) -> tuple[Float32[Array, "b n 2"], Float32[Array, "b"]]:
    """Positions with the photo's centre at 0 and its longest side from -1 to 1, and that side's length."""
    occupied = mask.any(2), mask.any(1)  # rows, columns
    first = jnp.stack([jnp.argmax(z, axis=1) for z in occupied], -1)
    end = jnp.stack([z.shape[1] - jnp.argmax(jnp.flip(z, 1), axis=1) for z in occupied], -1)
    size = end - first
    extent = size.max(-1).astype(jnp.float32)
    centred = 2 * (at - first[:, None]) + 1 - size[:, None]
    return centred / extent[:, None, None], extent


def _waves(position: Float32[Array, "b n 2"]) -> Float32[Array, "b n 18"]:
    """The position and its sines and cosines in four octaves: a linear layer can place a node finely with these."""
    angles = (jnp.pi * position[..., None] * jnp.array([0.5, 1, 2, 4])[None, None, None]).reshape(
        *position.shape[:2], 8
    )
    return jnp.concatenate([position, jnp.sin(angles), jnp.cos(angles)], -1)
