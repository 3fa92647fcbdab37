"""DELG's local features in a training step: they learn from their own losses, and leave the backbone alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import Config, LocalConfig, ModelConfig, TrainConfig
from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.models.delg import DelgHead
from sret_jax.models.descriptor import RetrievalNetwork, build_network
from sret_jax.models.pooling import GeM
from sret_jax.training import parallel
from sret_jax.training.delg_loss import delg_loss
from sret_jax.training.loop import initial_state
from sret_jax.training.step import make_step


class TwoStages(nn.Module):
    """A backbone of two convolutions that do not see the padding, with strides 4 and 8."""

    @nn.compact
    def __call__(self, images, mask, *, train=False, last_stage="last"):
        x = jnp.where(mask[..., None], images.astype(jnp.float32) / 255, 0)
        x = nn.relu(nn.Conv(8, (4, 4), strides=4, padding="VALID", name="first")(x))
        y = nn.relu(nn.Conv(12, (2, 2), strides=2, padding="VALID", name="second")(x))
        return {"c4": (x, mask[:, ::4, ::4]), "last": (y, mask[:, ::8, ::8])}


NETWORK = RetrievalNetwork(
    backbone=TwoStages(), pool=GeM(3.0), stage="last", size_multiple=8, local=DelgHead(dim=4, hidden=16)
)


PHOTOS = PhotoSet(
    "four",
    list("wxyz"),
    np.arange(4, dtype=np.int32),
    list("abcd"),
    np.full((4, 2), 24, np.int32),
    list("wxyz"),
    [{}] * 4,
    [],
)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(4, dtype=np.int32), 2)
    base = rng.integers(0, 256, (4, 24, 24, 3))
    image = np.clip(base[label] + rng.integers(-20, 20, (8, 24, 24, 3)), 0, 255).astype(np.uint8)
    mask = np.ones((8, 24, 24), bool)
    mask[3, 16:] = False
    return {"image": image, "mask": mask, "label": label, "stop": np.zeros(8, bool)}


def test_steps_lower_the_losses_of_the_local_features_alone():
    model = ModelConfig(weights="none", whitening=False, local=LocalConfig(enabled=True, kind="delg", dim=4))
    train = TrainConfig(loss="contrastive", steps=12, warmup_steps=0, learning_rate=0.05, weight_decay=0.0)
    given = batch()
    variables = jax.jit(NETWORK.init)(
        jax.random.key(0), jnp.asarray(given["image"][:1]), jnp.asarray(given["mask"][:1])
    )
    config = Config(model=model, train=train)
    optimizer, state = initial_state(config, variables, PHOTOS)
    assert state.params["loss"]["delg"]["kernel"].shape == (8, 4)

    @jax.jit
    def local_loss(state):
        network = {"params": state.params["network"], "batch_stats": state.batch_stats}
        seen = NETWORK.apply(network, jnp.asarray(given["image"]), jnp.asarray(given["mask"]))[1]
        return delg_loss(state.params["loss"]["delg"], seen["delg"], jnp.asarray(given["label"]))

    first, losses = state, []
    step, state = parallel.data_parallel(make_step(NETWORK, optimizer, train)), parallel.place(state)
    for _ in range(train.steps):
        state, metrics = step(state, parallel.shard([given]))
        losses.append(float(parallel.fetch(metrics)["loss"]))
    last = parallel.fetch(state)
    assert losses[-1] < 0.8 * losses[0]
    assert local_loss(last) < 0.8 * local_loss(first)
    old, new = first.params["network"], last.params["network"]
    jax.tree.map(np.testing.assert_array_equal, old["backbone"], new["backbone"])  # frozen, as train_from says
    for path, change in jax.tree_util.tree_leaves_with_path(jax.tree.map(jnp.subtract, old["local"], new["local"])):
        assert np.abs(change).max() > 1e-4, jax.tree_util.keystr(path)
    means = (x["local"]["attention"]["mean"] for x in (first.batch_stats, last.batch_stats))
    assert np.abs(np.subtract(*means)).max() > 1e-3


def test_the_config_builds_it_and_names_what_has_no_such_stage():
    local = LocalConfig(enabled=True, kind="delg", dim=32)
    network = build_network(ModelConfig(weights="none", local=local))
    assert network.local.dim == 32
    image = jax.ShapeDtypeStruct((1, 64, 96, 3), np.uint8), jax.ShapeDtypeStruct((1, 64, 96), bool)
    (_, seen), _ = jax.eval_shape(network.init_with_output, jax.random.key(0), *image)
    assert seen["local"]["features"].shape == (1, 4, 6, 32) and seen["local"]["strength"].shape == (1, 4, 6)
    with pytest.raises(UserError, match="config.model.local.kind='delg': reads 'c4'"):
        build_network(ModelConfig(weights="none", stage="c3", local=local))
