"""`sret export`: one folder that `load` reads anywhere, that can be uploaded as it is, with programs for others."""

import dataclasses
from pathlib import Path
from typing import Any

from sret_jax.config.paths import without_paths
from sret_jax.data.photo_set import PhotoSet
from sret_jax.export import onnx_file, stablehlo
from sret_jax.export.card import card, made_by
from sret_jax.extraction.preprocessing import preprocessing
from sret_jax.retriever import load
from sret_jax.storage.artifacts import new_folder


def export_retriever(
    source: str | Path,
    folder: str | Path,
    *,
    as_stablehlo: bool = False,
    as_onnx: bool = False,
    one_scale: bool = False,
    photos: PhotoSet | None = None,
) -> dict[str, Any]:
    """Writes model.safetensors, config.json, README.md and the programs that are wanted; nothing where one fails.

    Args:
      source: what `load` takes.
      folder: new, or empty, and not the current one.
      one_scale: describe photographs at scale 1 alone, which is all that a program can.
      photos: that the ONNX file is compared on.

    Returns:
      What config.json says beside the config.

    Raises:
      UserError: `folder` holds something or is the current one, `source` cannot be loaded, or a program cannot be made
        of it.
    """
    folder = new_folder(folder)
    retriever = load(source)
    config = without_paths(retriever.config)
    if other := one_scale and tuple(config.extract.scales) != (1.0,):
        config = dataclasses.replace(config, extract=dataclasses.replace(config.extract, scales=(1.0,)))
    retriever = dataclasses.replace(retriever, config=config)
    about: dict[str, Any] = {"made_by": made_by(source, retriever)}
    if other:  # of all scales, where the folder that is exported again says so
        about["made_by"].pop("measured", None)
    files: dict[str, bytes] = {}
    programs: dict[str, Any] = {}
    if as_stablehlo:
        files[stablehlo.FILE], programs["stablehlo"] = stablehlo.to_stablehlo(retriever)
    if as_onnx:
        files[onnx_file.FILE], programs["onnx"] = onnx_file.to_onnx(retriever, photos)
    if programs:
        about["programs"] = programs
    shown = preprocessing(retriever.network, retriever.variables, retriever.config)
    files["README.md"] = card(retriever, folder.name, about, shown).encode()
    retriever.save(folder, about=about, beside=files)
    return about
