"""The network as StableHLO: one file for CPU, CUDA and TPU, of free batch and size, that JAX alone can call."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jaxtyping import Bool, Float, UInt8

from sret_jax.errors import UserError
from sret_jax.export.program import check_exportable, convention, free_inputs, program
from sret_jax.retriever import Retriever
from sret_jax.storage.files import named, read_file

FILE = "model.stablehlo"
MOST_BYTES = 2 << 30
PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(retriever: Retriever) -> tuple[bytes, dict[str, Any]]:
    """The file, `jax.export`'s serialization with the parameters inside, and what config.json says of it.

    Raises `UserError` that names the part of the network for which sizes have to be numbers.
    """
    check_exportable(retriever)
    _, inputs = free_inputs(retriever)
    try:
        exported = export.export(jax.jit(program(retriever)), platforms=PLATFORMS)(*(x for _, x in inputs))
        data = bytes(exported.serialize())
    except ModuleNotFoundError as error:
        raise UserError(f"--stablehlo needs the package {error.name}: pip install {error.name}") from None
    about = {"file": FILE, "platforms": list(PLATFORMS), "jax": jax.__version__} | convention(retriever)
    return data, about | {"calling_convention_version": exported.calling_convention_version}


class StableHLO:
    """A program that `sret export --stablehlo` wrote: `descriptors = program(images, mask)`."""

    def __init__(self, path: str | Path):
        """Reads the file, or that of a folder.

        Raises `UserError` where there is none, or it is not one that this version of JAX reads.
        """
        path = Path(path).expanduser()
        path = path / FILE if path.is_dir() else path
        with named(path, "`sret export RUN DIR --stablehlo` writes one"):
            data = read_file(path, MOST_BYTES)
        try:
            self._exported = export.deserialize(bytearray(data))
        except Exception as error:
            raise UserError(
                f"{path}: not a program that JAX {jax.__version__} reads ({type(error).__name__})"
            ) from None

    def __call__(
        self, images: UInt8[np.ndarray, "b h w 3"], mask: Bool[np.ndarray, "b h w"]
    ) -> Float[np.ndarray, "b d"]:
        return np.asarray(self._exported.call(images, mask))
