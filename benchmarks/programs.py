"""What the compiled programs cost on accelerators, computed without one: operations, bytes, memory, the rate at most.

    python benchmarks/programs.py [--networks=efficientnet_lite0:320,resnet101:512,...] [--targets="NAME;NAME"]
                                  [--jobs=extract,train] [--batches=16] [--dtype=bfloat16] [--memory_of=NAME]
                                  [--workdir=DIR] [--kept] [--save]

Nothing here is measured. For every network, extraction and a training step are traced as they are traced on the device,
and

- operations are XLA's count (`cost_analysis`) for the program lowered for the device, a multiply-add as two. Smoothing
  and refinement are lowered alone, on the map that they are given, and are shares of the backbone;
- memory and bytes moved are XLA's, of the program that the compiler of the platform makes for this very device
  (`memory_analysis`, `cost_analysis`); how to have that compiler without the device is said in `targets.py`. Without
  it, memory is that of the program compiled for the CPU, with the operations that a device would get, and bytes are
  left out; the table says so;
- parameters, and in training what the optimiser keeps of them, do not depend on the batch; all other memory grows
  with it, as a test holds. From both follows the batch that fits into 90 % of the device's memory;
- the rate at most is the roofline: the smaller of peak operations over operations and of bandwidth over bytes, both of
  the device's data sheet. No program reaches it.

Compiling for a TPU takes many minutes. With `--memory_of="H100 SXM, 80 GB"` memory is that of this device's program for
all, and of the bytes that another device moves nothing is said.

Training trains the whole backbone, by AdamW and InfoNCE over the batch. With `--workdir` what has been computed is kept
there, and a run that was stopped goes on.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from comparison import markdown
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from targets import COMPILED, GB, OPTIONS, TARGETS, Target, has_compiler, mesh_of, optimized
from timing import command

from sret_jax.config import ModelConfig, RefinementConfig, SmoothingConfig, TrainConfig
from sret_jax.models.backbones import BACKBONES
from sret_jax.models.descriptor import RetrievalNetwork, Variables, build_network, descriptor_length
from sret_jax.models.platform import traced_for
from sret_jax.storage.artifacts import write_json
from sret_jax.training import parallel
from sret_jax.training.losses import init_loss, init_loss_state
from sret_jax.training.optimizer import build_optimizer
from sret_jax.training.step import TrainState, make_step

NETWORKS = "efficientnet_lite0:320,resnet101:512,dinov3_vits16:448,dinov3_vitl16:448"
HEADS = {"": (False, False), "smoothing": (True, False), "refinement": (False, True), "both": (True, True)}
USABLE = 0.9  # of a device's memory: the rest is the runtime's, and lost between blocks
Shapes = Any  # a tree of jax.ShapeDtypeStruct


class Program(NamedTuple):
    """A function that `jax.jit` returned, and the shapes of its arguments."""

    function: Any
    arguments: tuple[Shapes, ...]

    def lowered(self, platform: str) -> Any:
        """The program as it is given to the compiler of a platform; nothing of the platform is needed."""
        with traced_for(platform):
            return self.function.trace(*self.arguments).lower(lowering_platforms=(platform,))


def model(backbone: str, heads: str = "both", dtype: str = "bfloat16", **fields: Any) -> ModelConfig:
    """A network with GeM, a whitening layer, and the parts of the method that `HEADS` names."""
    smoothing, refinement = HEADS[heads]
    return ModelConfig(
        backbone,
        weights="none",
        dtype=dtype,
        smoothing=SmoothingConfig(enabled=smoothing),
        refinement=RefinementConfig(enabled=refinement),
        **fields,
    )


def here(axis: str = parallel.AXIS) -> Mesh:
    """One device of this process."""
    return Mesh(np.array(jax.local_devices()[:1]), (axis,))


def shapes_of(tree: Any, mesh: Mesh, *axes: str) -> Shapes:
    """Of a tree of arrays or shapes, on the devices of a mesh, split along the first of `axes` or on all of them."""
    placed = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed), tree)


def variables_of(network: RetrievalNetwork, size: int) -> Variables:
    """Shapes of the network's parameters and statistics; no number is computed."""
    images, mask = inputs(1, size)
    found: Variables = jax.eval_shape(network.init, jax.random.key(0), images, mask)
    return {"batch_stats": {}} | found


def inputs(batch: int, size: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Square photographs and their masks."""
    shape = (batch, size, size)
    return jax.ShapeDtypeStruct((*shape, 3), jnp.uint8), jax.ShapeDtypeStruct(shape, jnp.bool_)


def extraction(config: ModelConfig, batch: int, size: int, mesh: Mesh | None = None) -> Program:
    """Photographs to descriptors, as `extraction.descriptors` runs it, without the intermediates that it drops."""
    network, mesh = build_network(config), mesh or here()

    def describe(variables: Variables, images: jax.Array, mask: jax.Array) -> jax.Array:
        return network.apply(variables, images, mask, train=False)[0]

    arguments = variables_of(network, size), *inputs(batch, size)
    return Program(jax.jit(describe), tuple(shapes_of(tree, mesh) for tree in arguments))


def training(
    config: ModelConfig, batch: int, size: int, mesh: Mesh | None = None, settings: TrainConfig | None = None
) -> Program:
    """An optimiser's step on a batch, as `train.parallel="shard_map"` runs it; its state is donated."""
    settings = settings or TrainConfig(loss="infonce", train_from="all")
    mesh = mesh or here()
    network = build_network(config, train_from=settings.train_from, batch_stats=settings.batch_stats)
    variables, key = variables_of(network, size), jax.random.key(0)
    of_loss = settings, 2, descriptor_length(config), key  # instances: as many as weights of classes need
    params = {"network": variables["params"], "loss": jax.eval_shape(lambda: init_loss(*of_loss))}
    optimizer = build_optimizer(settings, config, params)
    state = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        params,
        variables["batch_stats"],
        jax.eval_shape(optimizer.init, params),
        jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))),
        jax.eval_shape(lambda: init_loss_state(*of_loss)),
    )
    images, mask = inputs(batch, size)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    stop = jax.ShapeDtypeStruct((batch,), jnp.bool_)
    shared = {"image": images, "mask": mask, "label": labels, "stop": stop}
    shared = {name: jax.ShapeDtypeStruct((1, 1, *x.shape), x.dtype) for name, x in shared.items()}
    step = parallel.over_mesh(make_step(network, optimizer, settings), mesh)
    return Program(step, (shapes_of(state, mesh), shapes_of(shared, mesh, parallel.AXIS)))


def heads_alone(config: ModelConfig, batch: int, size: int, *, train: bool) -> Program:
    """Smoothing and refinement, pooling and whitening, on the map of the backbone, perhaps with their gradients."""
    network = build_network(config)
    info = BACKBONES[config.backbone]
    side = size // info.stages[config.stage]
    x = jax.ShapeDtypeStruct((batch, side, side, info.channels[config.stage]), config.dtype)
    mask = jax.ShapeDtypeStruct((batch, side, side), jnp.bool_)
    variables = jax.eval_shape(
        lambda key, *given: network.init(key, *given, given=config.stage), jax.random.key(0), x, mask
    )

    def describe(variables: Variables, x: jax.Array, mask: jax.Array) -> jax.Array:
        return network.apply(variables, x, mask, train=train, given=config.stage)[0]

    def both_ways(variables: Variables, x: jax.Array, mask: jax.Array) -> Any:
        y, back = jax.vjp(lambda v, x: describe(v, x, mask), variables, x)
        return back(y)

    function: Callable[..., Any] = both_ways if train else describe
    return Program(jax.jit(function), tuple(shapes_of(tree, here()) for tree in (variables, x, mask)))


def flops(program: Program, platform: str) -> float:
    """Operations of a call, as XLA counts those of the lowered program."""
    return float(program.lowered(platform).cost_analysis()["flops"])


def memory(compiled: Any) -> dict[str, float]:
    """Bytes that the device holds while the program runs, and of them what is donated and used again."""
    found = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return {"memory": held - found.alias_size_in_bytes, "donated": found.alias_size_in_bytes}


def bytes_of(shapes: Shapes) -> int:
    """Of all arrays of a tree of shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))


BUILD: dict[str, Callable[..., Program]] = {"extract": extraction, "train": training}


def of_operations(backbone: str, size: int, job: str, platform: str, dtype: str) -> dict[str, float]:
    """Operations of a photograph: {"whole", "smoothing", "refinement"}, the parts beside what a plain head takes."""
    batch = 2
    alone = {
        heads: flops(heads_alone(model(backbone, heads, dtype), batch, size, train=job == "train"), platform)
        for heads in ("", "smoothing", "refinement")
    }
    plain = flops(BUILD[job](model(backbone, "", dtype), batch, size), platform)
    parts = {heads: (alone[heads] - alone[""]) / batch for heads in ("smoothing", "refinement")}
    return {"whole": plain / batch + sum(parts.values()), "plain": plain / batch} | parts


def of_memory(
    backbone: str, size: int, job: str, target: Target, dtype: str, batches: tuple[int, ...], heads: str = "both"
) -> dict[str, Any]:
    """Bytes at each batch size, of the program compiled for the device, or else for the CPU."""
    own = has_compiler(target.platform)
    found: dict[str, Any] = {"compiled for": target.topology if own else "cpu"}
    for batch in batches:
        mesh = mesh_of(target, parallel.AXIS) if own else here()
        program = BUILD[job](model(backbone, heads, dtype), batch, size, mesh)
        with traced_for(target.platform):
            compiled = (
                program.function.trace(*program.arguments).lower().compile(OPTIONS[target.platform] if own else None)
            )
        found |= {"fixed": bytes_of(program.arguments[0]), str(batch): memory(compiled)}
        if own:
            found[str(batch)]["bytes"] = float(optimized(compiled)["bytes accessed"])
    return found


def row(target: Target, counted: dict[str, float], held: dict[str, Any] | None) -> dict[str, str]:
    """What the table says of a job on a device.

    `held`: of the program for it, for another device, or for a CPU; None: of none, and then nothing of its memory.
    """
    whole = counted["whole"]
    seconds = whole / target.flops
    out = {
        "GFLOP / photograph": f"{whole / 1e9:.1f}",
        "smoothing, of the backbone": f"{counted['smoothing'] / counted['plain']:.2%}",
        "refinement, of the backbone": f"{counted['refinement'] / counted['plain']:.2%}",
    }
    by_operations = f"{1 / seconds:,.0f}, by operations alone"
    if held is None:
        return out | {"at most, photographs / s": by_operations}
    batch = max(int(name) for name in held if name.isdigit())
    large, fixed = held[str(batch)], held["fixed"]
    each = (large["memory"] - fixed) / batch
    out |= {
        "memory": f"{fixed / GB:.2f} GB + {each / 1e6:.1f} MB / photograph",
        "batch that fits": f"{max(int((USABLE * target.memory - fixed) / each), 0):,}",
    }
    if "bytes" in large and held["compiled for"] == target.topology:
        moved = large["bytes"] / batch
        seconds = max(seconds, moved / target.bandwidth)
        out |= {"MB moved / photograph": f"{moved / 1e6:.0f}", "FLOP / byte": f"{whole / moved:.0f}"}
        out["at most, photographs / s"] = f"{1 / seconds:,.0f}"
        out["bound by"] = "operations" if seconds == whole / target.flops else "memory"
    else:
        out["at most, photographs / s"] = by_operations
    return out | {"memory of the program for": COMPILED[held["compiled for"]]}


class Kept:
    """What has been computed, by name; in a file, where there is a folder for it."""

    def __init__(self, folder: Path | None):
        self.path = folder / "programs.json" if folder else None
        self.known: dict[str, Any] = json.loads(self.path.read_text()) if self.path and self.path.exists() else {}

    def of(self, name: str, compute: Callable[[], Any] | None) -> Any:
        """None where it is not known and is not to be computed."""
        if compute is None:
            return self.known.get(name)
        if name not in self.known:
            self.known[name] = compute()
            print(name, self.known[name], flush=True)
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, self.known)
        return self.known[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=NETWORKS, help="NAME:LONGEST_SIDE,...")
    parser.add_argument("--targets", default=";".join(TARGETS), help="NAME;NAME")
    parser.add_argument("--jobs", default="extract,train")
    parser.add_argument("--batches", default="16", help="at which memory is computed; the rate is that of the largest")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--memory_of", default="", help="the device whose programs are compiled, for all")
    parser.add_argument("--workdir", type=Path, help="keeps what has been computed")
    parser.add_argument("--kept", action="store_true", help="compute nothing: the rows that --workdir has")
    parser.add_argument("--save", action="store_true", help="keep the table under benchmarks/results")
    given = parser.parse_args()
    kept, rows = Kept(given.workdir), {}
    batches = tuple(int(batch) for batch in given.batches.split(","))
    for text in given.networks.split(","):
        backbone, _, size = text.partition(":")
        for job in given.jobs.split(","):
            for name in given.targets.split(";"):
                target, about = TARGETS[name], (backbone, int(size), job)
                compiled = TARGETS[given.memory_of or name]
                words = f"{backbone} {size} {job} {given.dtype}"
                counted = kept.of(
                    f"operations {words}",
                    None if given.kept else lambda about=about: of_operations(*about, "tpu", given.dtype),
                )
                if counted is None:
                    continue
                held = kept.of(
                    f"memory {words} {given.batches} {compiled.topology}",
                    None
                    if given.kept
                    else lambda about=about, compiled=compiled: of_memory(*about, compiled, given.dtype, batches),
                )
                rows[f"{backbone}, {size} px, {job}, {name}"] = row(target, counted, held)
    peaks = "; ".join(
        f"{name}: {one.flops / 1e12:.0f} TFLOP/s, {one.bandwidth / 1e12:.2f} TB/s" for name, one in TARGETS.items()
    )
    text = (
        f"Computed, not measured: no accelerator ran. {given.dtype}, smoothing and refinement, GeM, whitening layer; "
        f"training: the whole backbone, AdamW, InfoNCE. Peaks of the data sheets: {peaks}. jax {jax.__version__}. "
        f"{command()}\n\n{markdown(rows)}\n"
    )
    print(text)
    if given.save:
        path = Path(__file__).parent / "results" / "programs_computed.md"
        path.write_text(text)
        print("saved", path)


if __name__ == "__main__":
    main()
