"""Which values of a config can be used, and together; everything else is refused before anything is built."""

import json
from typing import Any

from sret_jax.config import CLASSIFYING, OF_TUPLES, PROTOCOLS, Config, steps_per_epoch, trains_singles
from sret_jax.config.own_parts import named_parts, own_names, own_part
from sret_jax.errors import UserError, did_you_mean

_CHOICES = {
    "data.dataset": ("folder", "photos", "landmarks", "sfm", "synthetic"),
    "data.filter": ("bicubic", "bilinear", "lanczos", "thumbnail"),
    "data.rounding": ("nearest", "down", "aspect"),
    "data.sampling": ("instances", "balanced", "random", "tuples"),
    "model.smoothing.start": ("identity", "average"),
    "model.smoothing.control": ("", "layer", "weight", "shuffled"),
    "model.smoothing.form": ("learnable",),
    "model.refinement.control": ("", "shuffled"),
    "model.refinement.form": ("span", "free"),
    "model.refinement.strength": ("norm", "attention"),
    "model.refinement.edges": ("both", "space", "similarity"),
    "model.pool": ("gem", "mac", "spoc", "rmac", "superglobal", "how", "class_token", "attention"),
    "model.local.kind": ("how", "delg"),
    "model.local.init": ("pca", "weights"),
    "model.whitening_init": ("pca", "within", "random", "weights"),
    "model.dtype": ("float32", "bfloat16"),
    "train.loss": ("contrastive", "infonce", "multi_similarity", "triplet", "solar", *CLASSIFYING),
    "train.optimizer": ("adamw", "adam", "sgd"),
    "train.schedule": ("cosine", "exponential"),
    "train.parallel": ("pmap", "shard_map"),
    "train.whitening_refit": ("none", "pca", "within"),
    "train.decayed": ("kernels", "all"),
    "train.train_from": ("all", "c1", "c2", "c3", "c4", "c5", "last", "none"),
    "train.batch_stats": ("frozen", "updated"),
    "whitening.kind": ("none", "pca", "pairs", "within", "weights"),
    "extract.scale_pooling": ("mean", "max", "power3", "gem"),
    "extract.resized": ("photo", "tensor"),
    "search.method": ("auto", "exact", "brute_force", "ah", "tree_ah", "asmk"),
    "local.source": ("sift", "head", "map", "backbone"),
    "rerank.transform": ("affine", "homography"),
    "localize.refine": ("none", "guided", "grabcut"),
    "eval.protocol": tuple(PROTOCOLS),
}
_OWN = {  # where something may be named that does not come with the package, and of which kind
    "model.pool": "pooling",
    "model.smoothing.form": "smoothing",
    "model.refinement.form": "refinement",
    "train.loss": "loss",
}
_POSITIVE = (
    "data.image_size data.instances_per_batch data.threads model.smoothing.window model.smoothing.iterations "
    "model.smoothing.dilation model.refinement.nodes model.refinement.neighbours model.refinement.blocks "
    "model.local.window model.local.dim "
    "model.whitening_dim mining.queries mining.pool mining.tuples_per_batch train.sub_centres train.negatives "
    "train.epoch_steps train.accumulate train.log_every train.save_every train.keep extract.batch_size "
    "extract.chunk_rows search.chunk_rows search.codebook_photos search.assignments local.most local.image_size "
    "local.dim local.chunk_rows rerank.trials rerank.neighbours rerank.diffusion_queries rerank.hops rerank.inliers "
    "localize.image_size localize.query_size localize.chunk_rows"
).split()

_RANGES = {"data.source_balance": (0, 1), "data.view_strength": (0, 0.5), "train.start_share": (0, 1)}


def validate(config: Config, *, to_train: bool = True) -> None:
    """Raises `UserError` that names the first field whose value cannot be used, and what could.

    `to_train`: False for a network that only describes, which needs nothing to train.
    """

    def value(path: str) -> Any:
        node: Any = config
        for part in path.split("."):
            node = getattr(node, part)
        return node

    for path, known in _CHOICES.items():
        known = (*known, *own_names(_OWN.get(path, "")))
        if path == "train.loss" and not to_train and f"loss {value(path)}" in config.sources:
            continue  # it has trained with somebody's own, and describes without it
        if value(path) not in known:
            meant = did_you_mean(str(value(path)), known)
            names = ", ".join(name or '""' for name in known)
            raise UserError(f"config.{path}={value(path)!r}: choose one of {names}{meant}")
    _validate_parts(config)
    for path in _POSITIVE:
        if value(path) < 1:
            raise UserError(f"config.{path}={value(path)!r}: must be at least 1")
    for path, (least, most) in _RANGES.items():
        if not least <= value(path) <= most:
            raise UserError(f"config.{path}={value(path)!r}: must be from {least} to {most}")
    if config.data.photos_per_instance < 2:
        raise UserError("config.data.photos_per_instance must be at least 2: a loss needs pairs of one instance")
    if config.model.smoothing.window % 2 == 0:
        raise UserError(f"config.model.smoothing.window={config.model.smoothing.window}: must be odd, it has a centre")
    if config.model.local.window % 2 == 0:
        raise UserError(f"config.model.local.window={config.model.local.window}: must be odd, it has a centre")
    if config.model.pool == "how" and not config.model.local.enabled:
        raise UserError('config.model.pool="how" sums the local features: set config.model.local.enabled=True')
    if not config.model.l2_pooled and config.model.whitening_init in ("pca", "within"):
        raise UserError(
            "config.model.l2_pooled=False: the closed forms are of normalised vectors; set "
            'config.model.whitening_init="weights"'
        )
    for path in ("model.whitening_ridge", "whitening.ridge", "train.validate_every", "train.patience"):
        if not value(path) >= 0:
            raise UserError(f"config.{path}={value(path)!r}: must be 0 or more")
    for path in ("data.map_drop", "data.held_out"):
        if not 0 <= value(path) < 1:
            raise UserError(f"config.{path}={value(path)!r}: must be a share, 0 or more and below 1")
    if not 0 < config.train.temperature:
        raise UserError(f"config.train.temperature={config.train.temperature}: must be more than 0")
    if to_train:
        _validate_trained(config)
        _validate_sampling(config)
        _validate_maps(config)
        _validate_singles(config)
    if config.eval.ranked < 0:
        raise UserError(f"config.eval.ranked={config.eval.ranked}: must be 0, for all photographs, or more")
    if config.search.words < 0:
        raise UserError(f"config.search.words={config.search.words}: must be 0, to be chosen by size, or more")
    if not config.extract.scales or min(config.extract.scales) <= 0:
        raise UserError(f"config.extract.scales={config.extract.scales}: give at least one positive scale")


def _validate_parts(config: Config) -> None:
    """Raises `UserError` for arguments of what is not named, or has none; and for values that are not plain."""
    named = dict.fromkeys((name for _, name in named_parts(config)), "")
    for name in ("model", "train", "rerank", "localize", "eval"):
        for part, values in getattr(config, name).parts.items():
            if part not in named:
                raise UserError(
                    f"config.{name}.parts: {part!r} is not used by this config{did_you_mean(part, named)}; it has "
                    "arguments of parts of your own, by the name that they are registered under"
                )
            try:
                json.dumps(dict(values))
            except (TypeError, ValueError) as error:
                raise UserError(f"config.{name}.parts: {part!r}: {error}; give numbers, words, lists") from None


def _validate_trained(config: Config) -> None:
    model, train = config.model, config.train
    heads = model.attention.stages, model.smoothing.enabled, model.refinement.enabled, model.whitening
    learns = model.pool in ("gem", "superglobal") or own_part("pooling", model.pool) is not None
    if not (any(heads) or learns or train.train_from != "none"):
        raise UserError(
            f'config.model.pool={model.pool!r} has nothing to train: set config.train.train_from, for example to "c5", '
            "or config.model.whitening=True"
        )
    if train.start_share and train.batch_stats == "updated":
        raise UserError(
            f"config.train.start_share={train.start_share!r}: averaged weights have other statistics of BatchNorm; set "
            'config.train.batch_stats="frozen", or the share to 0'
        )
    refit = train.whitening_refit
    if refit != "none" and not (model.whitening and model.l2_pooled):
        field = "l2_pooled" if model.whitening else "whitening"
        raise UserError(
            f"config.train.whitening_refit={refit!r} fills the whitening layer from normalised vectors; set "
            f'config.model.{field}=True, or train.whitening_refit="none"'
        )


def _validate_maps(config: Config) -> None:
    if not config.train.on_maps:
        return
    if config.data.sampling == "tuples":
        raise UserError(
            'config.train.on_maps: mined tuples train on photographs; change config.data.sampling ("tuples")'
        )
    if config.model.local.enabled and config.model.local.kind == "delg":
        raise UserError('config.train.on_maps: the "delg" local features train on photographs; set it to False')
    if config.model.pool in ("class_token", "attention"):
        raise UserError(
            f'config.train.on_maps: pool={config.model.pool!r} is not made of a map; set it to False, or pool="gem"'
        )
    if min(config.data.map_scale) <= 0:
        raise UserError(f"config.data.map_scale={config.data.map_scale}: give two positive factors")


def _validate_sampling(config: Config) -> None:
    train, mining = config.train, config.mining
    if config.data.source_balance != 1 and config.data.sampling != "instances":
        raise UserError(
            f'config.data.source_balance={config.data.source_balance!r}: only data.sampling="instances" knows sources; '
            "choose it, or leave the balance at 1"
        )
    if config.data.sampling == "tuples":
        if train.loss not in OF_TUPLES:
            raise UserError(
                f"config.train.loss={train.loss!r}: mined tuples have {', '.join(OF_TUPLES)}; choose one of these, or "
                "another config.data.sampling"
            )
        if steps_per_epoch(config) < 1:
            raise UserError(
                f"config.mining.queries={mining.queries}: fewer than the {mining.tuples_per_batch * train.accumulate} "
                "tuples of a step (mining.tuples_per_batch * train.accumulate); raise it"
            )


def _validate_singles(config: Config) -> None:
    data = config.data
    if trains_singles(data) and data.sampling != "instances":
        named = "data.singles=True" if data.singles else 'data.dataset="photos"'
        raise UserError(
            f'config.{named}: only data.sampling="instances" shows a photograph beside itself; choose that instead of '
            f"{data.sampling!r}"
        )
    if data.dataset == "photos" and data.splits:
        raise UserError(
            f'config.data.splits={data.splits!r} chooses instances, and data.dataset="photos" has none but its '
            'photographs; leave it empty, or use data.dataset="folder" with data.singles=True'
        )
    learned = {
        "whitening.kind": config.whitening.kind,
        "model.whitening_init": config.model.whitening_init if config.model.whitening else "",
        "train.whitening_refit": config.train.whitening_refit,
    }
    for field, kind in learned.items():
        if data.dataset == "photos" and kind in ("pairs", "within"):
            raise UserError(
                f'config.{field}="{kind}" learns from two photographs of an instance, and data.dataset="photos" has '
                'one of each; set it to "pca"'
            )
