"""Which values of a config can be used together; everything else is refused before anything is read or built.

What one field may hold stands beside it: `rules`.
"""

import re
from urllib.parse import urlsplit

from sret_jax.config import OF_TUPLES, Config, SearchConfig, steps_per_epoch, trains_singles
from sret_jax.config.own_parts import named_parts, own_names, own_part, own_stages
from sret_jax.config.rules import check, shown
from sret_jax.errors import UserError, did_you_mean

LARGEST = 16_384  # pixels: the longest side of a photograph at its largest scale
LEAST_STRIDE = {"c1": 2, "c2": 4, "c3": 8}  # of the map of a stage, of any backbone; of the others
OF_OTHERS = 14
OF_SERVERS = ("auto", "exact", "hnsw")  # methods


def check_values(config: Config, *, to_train: bool = True) -> None:
    """Raises `UserError` for the first field that holds what its rule refuses; for fields together see `validate`.

    `to_train`: False where the loss is not needed, so that one that is somebody's own need not be there.
    """

    def names(kind: str) -> tuple[str, ...]:
        if kind == "loss" and not to_train and isinstance(config.sources, dict):
            trained_with = [one.partition(" ")[2] for one in config.sources if str(one).startswith("loss ")]
            return (*own_names(kind), *trained_with)
        return own_stages() if kind == "stage" else own_names(kind)

    check(config, "config.", names)


def validate(config: Config, *, to_train: bool = True) -> None:
    """Raises `UserError` that names the first field whose value cannot be used, or not with others, and what could.

    `to_train`: False for a network that only describes, which needs nothing to train.
    """
    check_values(config, to_train=to_train)
    _validate_parts(config)
    if config.model.pool == "how" and not config.model.local.enabled:
        raise UserError('config.model.pool="how" sums the local features: set config.model.local.enabled=True')
    if not config.model.l2_pooled and config.model.whitening_init in ("pca", "within"):
        raise UserError(
            "config.model.l2_pooled=False: the closed forms are of normalised vectors; set "
            'config.model.whitening_init="weights"'
        )
    _validate_sizes(config)
    _validate_search(config.search)
    if to_train:
        _validate_trained(config)
        _validate_sampling(config)
        _validate_maps(config)
        _validate_singles(config)


def _validate_sizes(config: Config) -> None:
    """What one field makes of another: the largest scale of a photograph, and the reach of the smoothing in its map.

    A window may be larger than the map, up to where every position sees every other.
    """
    for path, scales in (("extract", config.extract.scales), ("local", config.local.scales)):
        if config.data.image_size * max(scales) > LARGEST:
            raise UserError(
                f"config.{path}.scales={shown(scales)}: with config.data.image_size={config.data.image_size} a "
                f"photograph has more than {LARGEST} pixels a side; make one of them smaller"
            )
    model = config.model
    if not model.smoothing.enabled or own_part("backbone", model.backbone) is not None:
        return
    side = -(-config.data.image_size * max(config.extract.scales) // LEAST_STRIDE.get(model.stage, OF_OTHERS))
    reach = model.smoothing.window // 2 * model.smoothing.dilation
    if reach > max(1, side - 1):
        raise UserError(
            f"config.model.smoothing.window={model.smoothing.window}: reaches {reach} positions "
            f"(dilation={model.smoothing.dilation}), and a map of at most {side:.0f} has none so far apart; make it "
            "smaller, or config.data.image_size larger"
        )


def _validate_search(search: SearchConfig) -> None:
    """Which methods belong to which engine, and that no password is kept with a config."""
    check_no_password(search.server)
    if search.engine == "local":
        validate_index(search)
        if search.method == "hnsw":
            raise UserError(
                'config.search.method="hnsw" is of a server; set config.search.engine to milvus or pgvector, or choose '
                "another method"
            )
        return
    if search.method not in OF_SERVERS:
        raise UserError(
            f"config.search.method={search.method!r} is searched here; with config.search.engine={search.engine!r} "
            f"choose one of {', '.join(OF_SERVERS)}"
        )
    for name, plain in (("recall", 0.0), ("store", "float32"), ("shards", 1)):
        if getattr(search, name) != plain:
            raise UserError(
                f"config.search.{name}={shown(getattr(search, name))} is of an index here; with "
                f"config.search.engine={search.engine!r} leave it at {shown(plain)}"
            )
    if search.engine == "milvus" and not search.server:
        raise UserError(
            'config.search.engine="milvus": set config.search.server to http://HOST:19530, or a file NAME.db'
        )


def check_no_password(server: str) -> None:
    """Raises `UserError`, which does not show it, for an address that holds a password: configs are kept and shown."""
    try:
        held = urlsplit(server).password
    except ValueError:
        held = None
    if held or re.search(r"\b(ssl)?password\s*=|\btoken\s*=", server, re.IGNORECASE):
        raise UserError(
            "config.search.server holds a password, which would be kept with the config; take it out, and write it "
            "into ~/.pgpass or PGPASSWORD for PostgreSQL, or MILVUS_TOKEN for Milvus"
        )


def validate_index(search: SearchConfig) -> None:
    """Raises `UserError` for settings of an index that contradict each other, or that it does not have."""
    for name in ("leaves_to_search", "reorder"):
        if search.recall and getattr(search, name):
            raise UserError(
                f"config.search.recall={search.recall!r} chooses {name}: leave config.search.{name} at 0, or set the "
                "recall to 0"
            )
    if search.method == "brute_force" and (search.store != "float32" or search.shards > 1):
        field = "store" if search.store != "float32" else "shards"
        raise UserError(
            f"config.search.{field}={shown(getattr(search, field))}: ScaNN's brute force has neither codes nor shards; "
            'set config.search.method="exact", which finds the same'
        )


def _validate_parts(config: Config) -> None:
    """Raises `UserError` for arguments of what is not named, or has none."""
    named = dict.fromkeys((name for _, name in named_parts(config)), "")
    for name in ("model", "train", "rerank", "localize", "eval"):
        for part in getattr(config, name).parts:
            if part not in named:
                raise UserError(
                    f"config.{name}.parts: {part!r} is not used by this config{did_you_mean(part, named)}; it has "
                    "arguments of parts of your own, by the name that they are registered under"
                )


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
