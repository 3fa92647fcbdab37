"""Trains a linear layer on descriptors: `sret adapt --root=PHOTOS --out=DIR [--workdir=RUN | --config=NAME ...]`.

PHOTOS is a folder <instance>/<photo>, or several separated by commas, described once by the retriever of `--workdir`
(what `sret train` wrote, or a folder of `Retriever.save`) or the weights of `--config`; by default those that come with
the package. A fifth of the instances is held out, or those of "val" in `--splits=FILE.json` are, and decide: where the
layer is not better than the descriptors as they are by more than chance, nothing is changed, and the command says so.
DIR/retriever is what `sret_jax.load`, `sret eval --workdir` and `sret index --retriever` read.

    sret adapt --descriptors=FILE.npy --labels=FILE --out=DIR

does the same for descriptors of any other system. `--labels` has the instance of each row on a line of its own, or
`--names` the name of its photograph, <instance>/<photo>. DIR/projection.npz then holds `mean` and `projection`: of
normalised x, `(x - mean) @ projection` is to be normalised.
"""

import dataclasses
import logging
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from sret_jax.config.adaptation import AdaptConfig
from sret_jax.config.paths import expanded, expanded_list
from sret_jax.config.rules import check as check_values
from sret_jax.config.rules import rules_of
from sret_jax.errors import UserError

DEFAULT, RULES = AdaptConfig(), rules_of(AdaptConfig)
CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The folder that training wrote, or `Retriever.save`.")
ROOT = flags.DEFINE_string("root", "", "The photographs, <instance>/<photo>; of several folders, A,B.")
SPLITS = flags.DEFINE_string("splits", "", 'JSON {"train": [instance, ...], "val": [...]}; of several folders, A,B.')
DESCRIPTORS = flags.DEFINE_string("descriptors", "", "Instead of photographs: a .npy file, one descriptor a row.")
LABELS = flags.DEFINE_string("labels", "", "With --descriptors: the instance of each, one a line, or a JSON list.")
NAMES = flags.DEFINE_string("names", "", "Or the name of the photograph of each, <instance>/<photo>.")
OUT = flags.DEFINE_string("out", None, "Where the result and the descriptors go.")
DIM = flags.DEFINE_integer("dim", DEFAULT.dim, f"Numbers of an adapted descriptor: {RULES['dim'].says()}.")
START = flags.DEFINE_string("start", DEFAULT.start, f"Of the layer: {RULES['start'].says()}; as published: random.")
EPOCHS = flags.DEFINE_integer("epochs", DEFAULT.epochs, f"Times that all are trained on: {RULES['epochs'].says()}.")
RATE = flags.DEFINE_float("learning_rate", DEFAULT.learning_rate, f"Of Adam: {RULES['learning_rate'].says()}.")
HELD_OUT = flags.DEFINE_float(
    "held_out", DEFAULT.held_out, f"Share of the instances that decide: {RULES['held_out'].says()}."
)
SEED = flags.DEFINE_integer("seed", DEFAULT.seed, f"Of everything random: {RULES['seed'].says()}.")


def check() -> None:
    """Raises `UserError` for a mistake that can be found before anything is imported to train."""
    if OUT.value is None or bool(ROOT.value) == bool(DESCRIPTORS.value):
        raise UserError("give --out=DIR, and --root=PHOTOS or --descriptors=FILE.npy")
    check_values(_settings(), "--")


def _settings() -> AdaptConfig:
    return dataclasses.replace(
        DEFAULT,
        dim=DIM.value,
        start=START.value,
        epochs=EPOCHS.value,
        learning_rate=RATE.value,
        held_out=HELD_OUT.value,
        seed=SEED.value,
    )


def main() -> None:
    from sret_jax.evaluation.adaptation_run import adapt_descriptors, adapt_retriever
    from sret_jax.retriever import load, without_unfilled_layers

    logging.getLogger("sret_jax").setLevel(logging.INFO)
    out, settings = Path(expanded(OUT.value)), _settings()
    if DESCRIPTORS.value:
        descriptors, labels, names = (Path(expanded(DESCRIPTORS.value)), expanded(LABELS.value), expanded(NAMES.value))
        _, found = adapt_descriptors(descriptors, out, settings, labels, names)
        print(f"{found.verdict()}\n{out / 'projection.npz'}")
        return
    if WORKDIR.value:
        retriever = load(expanded(WORKDIR.value), CONFIG.value)
    else:
        retriever = load() if CONFIG.value is None else load(without_unfilled_layers(CONFIG.value))
    cache = retriever.config.data.cache_dir if CONFIG.value is not None else ""
    _, found = adapt_retriever(retriever, expanded_list(ROOT.value), out, settings, expanded_list(SPLITS.value), cache)
    print(f"{found.verdict()}\n{out / 'retriever'}")
