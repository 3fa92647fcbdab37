"""Values that cannot be used, or not together, are refused by the name of the field."""

import pytest

from sret_jax.config import Config, LocalConfig, SearchConfig
from sret_jax.config.validation import validate
from sret_jax.errors import UserError


def changed(**fields):
    """A config with these fields, whose names have "__" for a dot."""
    config = Config()
    for path, value in fields.items():
        *parts, last = path.split("__")
        node = config
        for part in parts:
            node = getattr(node, part)
        setattr(node, last, value)
    return config


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"train__on_maps": True, "data__map_scale": (0.5, 2.0), "data__map_drop": 0.5},
        {"train__validate_every": 10, "train__patience": 3, "train__whitening_refit": "within"},
        {"model__whitening_init": "within", "model__whitening_ridge": 0.5, "whitening__kind": "within"},
        {"model__refinement__form": "free", "train__loss": "infonce", "train__temperature": 0.5},
    ],
)
def test_what_goes_together_is_taken(fields):
    validate(changed(**fields))


def test_a_network_without_its_whitening_layer_may_be_measured():
    validate(changed(train__whitening_refit="within", model__whitening=False), to_train=False)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model__refinement__form": "fre"}, "config.model.refinement.form='fre'.*span.*free"),
        ({"train__whitening_refit": "pairs"}, "config.train.whitening_refit='pairs'"),
        ({"train__loss": "infonse"}, "config.train.loss='infonse'.*infonce"),
        ({"train__temperature": 0.0}, "config.train.temperature=0.0: must be a number above 0 and up to 100"),
        ({"train__validate_every": -1}, "config.train.validate_every=-1: must be a whole number from 0 to"),
        ({"train__patience": -1}, "config.train.patience=-1: must be a whole number from 0 to"),
        ({"model__whitening_ridge": float("nan")}, "config.model.whitening_ridge=nan: must be a number from 0 to"),
        ({"whitening__ridge": -0.5}, "config.whitening.ridge=-0.5: must be a number from 0 to"),
        ({"data__map_drop": 1.0}, "config.data.map_drop=1.0: must be a number from 0 to below 1"),
        ({"data__held_out": -0.1}, "config.data.held_out=-0.1: must be a number from 0 to below 1"),
        ({"train__start_share": 1.5}, "config.train.start_share=1.5: must be a number from 0 to 1"),
        (
            {"train__start_share": 0.5, "train__batch_stats": "updated"},
            'config.train.start_share=0.5: .* set config.train.batch_stats="frozen"',
        ),
        ({"model__l2_pooled": False, "model__whitening_init": "within"}, 'whitening_init="weights"'),
        (
            {"train__whitening_refit": "pca", "model__whitening": False},
            "whitening_refit='pca'.*config.model.whitening=",
        ),
        (
            {"train__whitening_refit": "pca", "model__l2_pooled": False, "model__whitening_init": "weights"},
            "whitening_refit='pca'.*config.model.l2_pooled=True",
        ),
        *(
            (
                {"data__dataset": "photos", field: "within"},
                f'{field.replace("__", ".")}="within" learns from two.*"pca"',
            )
            for field in ("whitening__kind", "model__whitening_init", "train__whitening_refit")
        ),
        (
            {"train__on_maps": True, "data__sampling": "tuples", "train__loss": "triplet"},
            "config.train.on_maps: mined tuples train on photographs",
        ),
        (
            {"train__on_maps": True, "model__local": LocalConfig(enabled=True, kind="delg")},
            'config.train.on_maps: the "delg" local features train on photographs',
        ),
        (
            {"search__recall": 0.9, "search__reorder": 50},
            "config.search.recall=0.9 chooses reorder: leave config.search",
        ),
        (
            {"search__engine": "pgvector", "search__recall": 0.9},
            "config.search.recall=0.9 is of an index here; with config.search.engine='pgvector' leave it at 0.0",
        ),
        (
            {"search__method": "brute_force", "search__store": "int8"},
            """config.search.store='int8': .* config.search.method="exact".*""",
        ),
        (
            {"search__method": "brute_force", "search__shards": 2},
            'config.search.shards=2: .* config.search.method="exact"',
        ),
        ({"data__map_scale": (0.0, 1.0)}, "config.data.map_scale=.*2 numbers, each above 0 and up to 8"),
    ],
)
def test_what_cannot_be_used_is_named(fields, text):
    with pytest.raises(UserError, match=text):
        validate(changed(**fields))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"engine": "vespa"}, "config.search.engine='vespa': choose one of local, milvus, pgvector"),
        ({"method": "hnsw"}, "is of a server; set config.search.engine to milvus or pgvector"),
        ({"engine": "pgvector", "method": "tree_ah"}, "is searched here; .* choose one of auto, exact, hnsw"),
        ({"engine": "milvus", "server": "http://x", "method": "asmk"}, "choose one of auto, exact, hnsw"),
        ({"engine": "milvus"}, "set config.search.server to http://HOST:19530"),
        ({"server": "postgresql://me:hidden@host/db"}, "holds a password"),
    ],
)
def test_a_search_engine_that_cannot_be_used_is_said(fields, why):
    config = Config(search=SearchConfig(**fields))
    with pytest.raises(UserError, match=why) as error:
        validate(config, to_train=False)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    "server", ["postgresql://me@host:5432/db", "host=db dbname=photos", "http://host:19530", "a.db"]
)
def test_an_address_without_a_password_is_taken(server):
    validate(Config(search=SearchConfig(engine="milvus", server=server)), to_train=False)
