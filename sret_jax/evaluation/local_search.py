"""A benchmark searched by the network's own local features: `config.search.method="asmk"`."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sret_jax.config import Config
from sret_jax.data.folders import prepare_folder
from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.second_stage import open_sides
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.retrieval.asmk_search import AsmkIndex, open_codebook, open_inverted_file


def open_asmk(
    network: RetrievalNetwork,
    variables: Variables,
    config: Config,
    opened: Benchmark,
    name: str,
    descriptors: tuple[np.ndarray, np.ndarray],
    workdir: Path,
    cache_dir: str | Path,
) -> AsmkIndex:
    """The photographs of a benchmark as an inverted file, asked by the rows of its queries.

    Local features, words and inverted file are kept in the folders `local` and `asmk` of `workdir`; the words are
    those of every benchmark that is measured there with the same photographs to learn them on.

    Raises:
      UserError: as `open_codebook` and `open_inverted_file` do.
    """
    own = replace(config, local=replace(config.local, source="head"))
    learned_on = codebook_photos(config, opened, cache_dir)
    codebook = open_codebook(network, variables, learned_on, own, workdir / "asmk/codebook")
    asking, photos = open_sides(network, variables, own, opened, name, descriptors, workdir)
    names, folder = opened.everything.names, workdir / "asmk" / name
    file = open_inverted_file(codebook, photos.local, names, config.search.binary, folder)
    return AsmkIndex(file, asking.local, config.search.assignments, codebook.photos)


def codebook_photos(config: Config, opened: Benchmark, cache_dir: str | Path) -> PhotoSet:
    """What `config.search.codebook` asks for; of the folder that was trained on, the split that was."""
    trained_on = config.data.root if config.data.dataset == "folder" else ""
    folder = config.search.codebook or trained_on
    if not folder:
        return opened.photos
    if config.data.splits and trained_on and Path(folder).resolve() == Path(trained_on).resolve():
        return prepare_folder(folder, cache_dir, splits=config.data.splits, split=config.data.split)
    return prepare_folder(folder, cache_dir, labelled=False)
