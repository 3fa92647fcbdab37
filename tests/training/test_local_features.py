import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import LocalConfig, ModelConfig, TrainConfig
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.training import local_features
from sret_jax.training.loop import learned_start, prepare_photos
from sret_jax.training.optimizer import build_optimizer
from sret_jax.training.shown import Shown
from tests.support import train_driver


def test_the_reduction_starts_as_pca_whitening_of_the_local_features(tmp_path):
    config = train_driver.small_config(tmp_path / "cache")
    config.model.pool, config.model.local, config.model.whitening = "how", LocalConfig(enabled=True, dim=6), False
    photos = prepare_photos(config, tmp_path)
    network = build_network(config.model)
    variables = init_network(network, config.model, jax.random.key(0))
    start = learned_start(config, variables, Shown(photos, config))

    seen = Extractor(network, start, config).intermediates(photos, range(len(photos)))
    features = np.concatenate([s["local"]["features"][s["local"]["mask"]] for s in seen.values()])
    assert len(features) < local_features.FEATURES  # so that none was left out
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(features.T @ features / len(features), np.eye(6), atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, start["params"]["backbone"], variables["params"]["backbone"])

    with pytest.raises(UserError, match="config.model.local.dim=30: PCA has only the 24 components"):
        local_features.reduced_start(config, {"params": {"local": {"kernel": np.zeros((24, 30))}}}, photos)
    config.model.local.init = "weights"
    assert learned_start(config, variables, Shown(photos, config)) is variables


def test_the_reduction_is_never_updated():
    params = {"network": {"local": {"kernel": jnp.ones((4, 3))}, "attention": {"kernel": jnp.ones((4, 3))}}, "loss": {}}
    optimizer = build_optimizer(TrainConfig(warmup_steps=0), ModelConfig(), params)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    assert not np.any(updates["network"]["local"]["kernel"]) and np.all(updates["network"]["attention"]["kernel"])
