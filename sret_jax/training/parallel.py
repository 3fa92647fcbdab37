"""Data-parallel training over every device of every process; the only file that uses `jax.pmap` and `jax.shard_map`.

The state is replicated and the batch is split. Inside a step `gather` joins the descriptors of all devices, so that
a loss sees the pairs of the whole batch: each device then computes the same loss of the same global batch.

About the gradient: the transpose of `all_gather` sums the cotangents of the N devices, each of which differentiates
that one loss, so the gradient that a device accumulates for its own photographs is N times too large. Parameters
that act after the gather get the exact gradient on every device. `mean` is therefore right for both: it sums the
former over the devices and divides by N, and averages N equal values of the latter.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Shaped

from sret_jax.errors import UserError

AXIS = "batch"


def connect() -> None:
    """Opens the connections between all devices, to be called while the processes are together.

    On CPUs a first connection waits 30 seconds for its peers, which one process may spend longer compiling than
    another; what runs over an open one waits as long as its peer lives.
    """
    if jax.process_count() > 1:
        jax.block_until_ready(jax.pmap(mean, axis_name=AXIS)(np.zeros(jax.local_device_count(), np.float32)))
        wait_for_all("connected")


def data_parallel(
    step: Callable[[Any, Any], tuple[Any, Any]], by: str = "pmap"
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """`step(state, batch) -> (state, metrics)`, run on every device on its share of the batch.

    The state goes in and comes out replicated, never stacked, and is donated. Both results must be equal on all
    devices, which holds when gradients and statistics went through `mean` or `gather`.

    Args:
      by: "pmap", or "shard_map" under `jax.jit`; the results are equal to the bit.
    """
    if by == "pmap":
        return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=(None, None), donate_argnums=(0,))
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    compiled = over_mesh(step, mesh)

    def on_all(state: Any, batch: Any) -> tuple[Any, Any]:
        return compiled(_of_all(state, mesh, PartitionSpec()), _of_all(batch, mesh, PartitionSpec(AXIS)))

    return on_all


def over_mesh(step: Callable[[Any, Any], tuple[Any, Any]], mesh: Mesh) -> Any:
    """`data_parallel` by shard_map over the devices of a mesh: what `jax.jit` returns, of arrays over all of them."""
    replicated, split = PartitionSpec(), PartitionSpec(AXIS)

    def on_one(state: Any, batch: Any) -> tuple[Any, Any]:
        return step(state, jax.tree.map(lambda x: x[0], batch))  # without the axis of devices, as pmap has it

    # Without the check of what varies over the devices, which would also sum the gradients where `mean` does.
    mapped = jax.shard_map(
        on_one, mesh=mesh, in_specs=(replicated, split), out_specs=(replicated, replicated), check_vma=False
    )
    return jax.jit(mapped, donate_argnums=0)


def _of_all(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """The arrays of this process's devices as its part of arrays over all devices; nothing is copied."""
    sharding, processes = NamedSharding(mesh, spec), jax.process_count()

    def joined(x: jax.Array) -> jax.Array:
        if processes == 1 or not x.is_fully_addressable:
            return x
        shape = (x.shape[0] * processes, *x.shape[1:]) if AXIS in spec else x.shape
        return jax.make_array_from_single_device_arrays(shape, sharding, [part.data for part in x.addressable_shards])

    return jax.tree.map(joined, tree)


def gather(x: Shaped[Array, "b ..."]) -> Shaped[Array, "g ..."]:
    """The rows of all devices in order, inside a `data_parallel` step."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def mean(tree: Any) -> Any:
    return jax.lax.pmean(tree, AXIS)


def any_device(x: Bool[Array, ""]) -> Bool[Array, ""]:
    return jax.lax.pmax(x.astype(int), AXIS) > 0


def device_index() -> Int[Array, ""]:
    """Number of this device among all, inside a `data_parallel` step."""
    return jax.lax.axis_index(AXIS)


def _local(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), spec)


def place(state: Any) -> Any:
    """Replicates host values over this process's devices, as a step returns them, so that a step compiles once."""
    return jax.device_put(state, _local(PartitionSpec()))


def shard(batches: list[dict[str, np.ndarray]]) -> dict[str, jax.Array]:
    """Splits this process's rows of each batch over its devices.

    Takes `accumulate` batches of arrays `[rows ...]`, gives arrays `[devices, accumulate, rows / devices, ...]`.
    """
    devices = jax.local_device_count()
    rows = len(next(iter(batches[0].values())))
    if rows % devices:
        raise UserError(
            f"a batch of {rows} photographs does not divide over {devices} devices; "
            "change config.data.instances_per_batch or config.data.photos_per_instance, or for mined tuples "
            "config.mining.tuples_per_batch or config.train.negatives"
        )

    def split(*parts: np.ndarray) -> np.ndarray:
        return np.stack([part.reshape(devices, rows // devices, *part.shape[1:]) for part in parts], axis=1)

    return jax.device_put(jax.tree.map(split, *batches), _local(PartitionSpec(AXIS)))


def fetch(tree: Any) -> Any:
    """Copies replicated values to the host. The copies stay valid when a later step donates the originals."""
    return jax.tree.map(lambda x: np.array(x.addressable_data(0) if isinstance(x, jax.Array) else x), tree)


def is_main() -> bool:
    """Whether this is the process that writes logs and checkpoints."""
    return jax.process_index() == 0


def from_main(tree: Any) -> Any:
    """The main process's values of a tree of arrays, in every process; the others wait for it."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def gather_processes(x: Shaped[np.ndarray, "b ..."]) -> Shaped[np.ndarray, "g ..."]:
    """The rows of all processes in order, in every process; each must have equally many."""
    return x if jax.process_count() == 1 else np.asarray(multihost_utils.process_allgather(x, tiled=True))


def wait_for_all(name: str) -> None:
    """Returns when every process has come to the point called `name`. When one dies, the others end too."""
    multihost_utils.sync_global_devices(name)
