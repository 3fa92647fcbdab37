"""Every setting of the project, with its unit and its default: `Config` and its parts, and what checks them.

base        data, model and training; search: what follows training, from extraction to evaluation
rules       what one field may hold, which stands beside it; reference: the same for people
validation  which values can be used together
run_config  the config of a run as a config file
"""

from sret_jax.config.base import (
    CLASSIFYING,
    OF_TUPLES,
    AttentionConfig,
    Config,
    DataConfig,
    LocalConfig,
    MiningConfig,
    ModelConfig,
    RefinementConfig,
    SmoothingConfig,
    TrainConfig,
    WhiteningConfig,
    differences,
    from_dict,
    photos_per_batch,
    steps_per_epoch,
    to_dict,
    trains_singles,
)
from sret_jax.config.search import (
    PROTOCOLS,
    EvalConfig,
    ExtractConfig,
    LocalizeConfig,
    LocalSearchConfig,
    RerankConfig,
    SearchConfig,
)

__all__ = [
    "CLASSIFYING",
    "OF_TUPLES",
    "PROTOCOLS",
    "AttentionConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "ExtractConfig",
    "LocalConfig",
    "LocalSearchConfig",
    "LocalizeConfig",
    "MiningConfig",
    "ModelConfig",
    "RefinementConfig",
    "RerankConfig",
    "SearchConfig",
    "SmoothingConfig",
    "TrainConfig",
    "WhiteningConfig",
    "differences",
    "from_dict",
    "photos_per_batch",
    "steps_per_epoch",
    "to_dict",
    "trains_singles",
]
