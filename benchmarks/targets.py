"""Accelerators by name, and programs compiled for them without one.

What a device can do at most is what its maker's data sheet says, for dense products of bfloat16.

`compiler(target)` needs no device, but the compiler of the platform, in a folder of its own, because with it installed
beside JAX every program would look for the device:

    pip install --no-deps --target COMPILERS 'libtpu==<as jax[tpu] asks>'                                    # TPU
    pip install --no-deps --target COMPILERS jax-cuda13-plugin==<jax's> jax-cuda13-pjrt==<jax's>             # NVIDIA
    PYTHONPATH=COMPILERS python benchmarks/programs.py ...
"""

import importlib.util
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

GB = 1e9


class Target(NamedTuple):
    """A device. Rates are of its data sheet.

    platform        as JAX calls it: "tpu" or "cuda"
    topology        as the compiler of the platform calls the smallest system whose programs stand for this device's
    flops           floating-point operations a second, bfloat16, dense
    bandwidth       of its memory, bytes a second
    memory          bytes
    """

    platform: str
    topology: str
    flops: float
    bandwidth: float
    memory: float


TARGETS = {
    "H100 SXM, 80 GB": Target("cuda", "1x1x1", 989e12, 3.35e12, 80 * GB),
    "TPU v5e, 16 GB": Target("tpu", "v5e:2x2", 197e12, 0.819e12, 16 * GB),
    "TPU v6e, 32 GB": Target("tpu", "v5e:2x2", 918e12, 1.64e12, 32 * GB),  # compiling takes minutes: that of a v5e
}
COMPILED = {"1x1x1": "an H100", "v5e:2x2": "a TPU v5e", "cpu": "a CPU"}  # topology -> the device of its programs
# Of the compiler: what it would try out on the device to choose the fastest is left to the libraries.
OPTIONS: dict[str, Any] = {
    "tpu": None,
    "cuda": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False},
}
# What XLA asks of a GPU that is not there: the numbers of CUDA's device properties of an H100 SXM.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
PACKAGES = {"tpu": "libtpu", "cuda": "jax_plugins.xla_cuda13"}


def has_compiler(platform: str) -> bool:
    """Whether programs for this platform can be compiled here."""
    try:
        return importlib.util.find_spec(PACKAGES[platform]) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def mesh_of(target: Target, axis: str) -> Mesh:
    """One device of this kind, which is not there: what is lowered for it can be compiled, and not run."""
    from jax.experimental import topologies

    if target.platform == "tpu":
        os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}  # nobody is asked what is there
        found: Any = topologies.get_topology_desc(platform="tpu", topology_name=target.topology)
    else:
        _without_gpu()
        found = topologies.get_topology_desc(platform="cuda", target_config=H100, topology=target.topology)
    return Mesh(np.array(found.devices[:1]), (axis,))


def _without_gpu() -> None:
    """JAX looks for a running backend to learn what "gpu" means, where there is no device; it is CUDA here.

    https://github.com/jax-ml/jax/issues/23971
    """
    from jax._src import xla_bridge

    known = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda name: "cuda" if name in ("gpu", "cuda") else known(name)


def optimized(compiled: Any) -> Any:
    """XLA's own analysis of a compiled program: {"flops": ..., "bytes accessed": ...}, of all its operations.

    On a GPU products and convolutions are calls of a library, whose operations it does not count.
    """
    from jax._src.lib import xla_client

    if found := compiled.cost_analysis():
        return found
    module = compiled.runtime_executable().hlo_modules()[0]
    return xla_client._xla.hlo_module_cost_analysis(jax.local_devices(backend="cpu")[0].client, module)
