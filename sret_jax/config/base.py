"""Every setting of the project, with its unit and its default; there are no defaults anywhere else. What follows
training is in `config/search.py`.

An experiment is a file in `configs/` whose `get_config()` returns a `Config`; the command line overrides
single fields (`--config.train.steps=200`). `sret_jax.config.validation` says which values can be used together.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from sret_jax.config.search import PROTOCOLS as PROTOCOLS
from sret_jax.config.search import (
    EvalConfig,
    ExtractConfig,
    LocalizeConfig,
    LocalSearchConfig,
    RerankConfig,
    SearchConfig,
)
from sret_jax.errors import UserError

CLASSIFYING = ("arcface", "cosface", "subcentre_arcface", "curricularface")  # losses with weights per instance
OF_TUPLES = ("contrastive", "triplet", "solar")  # losses that mined tuples have


@dataclass
class DataConfig:
    """The photographs to train on and the shapes in which every photograph travels."""

    # "folder": any <instance>/<photo> tree; "photos": any tree, every photograph in it an instance of its own; "sfm":
    # tuples of 3D models; "landmarks": Google's; "synthetic": drawn
    dataset: str = "folder"
    # The photo folder (datasets "folder", "photos"), or that of retrieval-SfM-*.pkl and ims/ ("sfm"), or of train.csv
    # or train_clean.csv and train/ ("landmarks"). Several photo folders are separated by commas, "A,B": instances and
    # photographs are then named <folder>/<name>, and those of different folders never mix.
    root: str = ""
    # JSON file {split: [instance, ...]}; "" uses every instance of root. Of several folders one each, separated by
    # commas, and nothing for one all of whose instances are used: "A.json,"
    splits: str = ""
    split: str = "train"  # which entry of `splits` to train on; dataset "sfm": "train" or "val"
    validation: str = "val"  # which entry of `splits` to validate on, where it has one
    held_out: float = 0.2  # otherwise: share of the training instances that are validated on instead
    sampling: str = "instances"  # what a batch holds: "instances" (P*K), "balanced", "random", "tuples" (mined)
    # "instances": a source with m instances is drawn in proportion to m ** source_balance; 1 draws every instance
    # alike, 0 every source. Sources are the folders of root, and within one the instances' names before "__".
    source_balance: float = 1.0
    # "instances": train on instances of one photograph too. What repeats a photograph of its batch, because its
    # instance has fewer than K, is shown through strong views: from elsewhere, partly hidden, in other light. Dataset
    # "photos" always does so.
    singles: bool = False
    # Of strong views: how far each corner moves, as a share of the side, 0 to 0.5; occlusion (up to 15 % of the area,
    # twice), light, blur and noise go with it. 0 = off: a view like any other.
    view_strength: float = 0.25
    cache_dir: str = ""  # where prepared ArrayRecord files go; "" = <workdir>/data
    image_size: int = 320  # longest side of a photograph after resizing, pixels
    enlarge: bool = True  # upscale smaller photographs at extraction; cirtorch and its kin leave them as they are
    # Of the resizing: "bicubic", "bilinear", "lanczos" (Pillow's, antialiased), or "thumbnail": lanczos in the two
    # steps of Pillow's `thumbnail`. Part of what a network was trained with, as the next
    filter: str = "bicubic"
    # Of the shorter side, to the multiple of pixels that the backbone needs: "nearest"; "down", as Pillow's `thumbnail`
    # did before version 7, and cirtorch, HOW and SOLAR with it; "aspect": the nearer in aspect, as it does since
    rounding: str = "nearest"
    bucket_ratios: tuple[float, ...] = (0.75,)  # short/long side of the padded shapes beside the square
    instances_per_batch: int = 8  # P
    photos_per_instance: int = 4  # K; the global batch is P*K photographs
    crop_area: tuple[float, float] = (0.4, 1.0)  # random crop: least and greatest share of the photo's area
    flip: float = 0.5  # probability of a horizontal flip
    colour: float = 0.3  # strength of brightness, contrast and saturation jitter, 0 = off
    jpeg: float = 0.3  # probability of re-compression
    jpeg_quality: tuple[int, int] = (30, 95)  # range of the re-compression quality
    map_scale: tuple[float, float] = (1.0, 1.0)  # stored maps: range of a crop's size, of its own; (1, 1): as it is
    map_drop: float = 0.0  # stored maps: share of the positions that a view hides
    threads: int = 4  # decoding threads
    synthetic_instances: int = 40  # dataset "synthetic": objects in the training split
    synthetic_photos: int = 10  # dataset "synthetic": photographs of each object
    synthetic_seed: int = 0  # dataset "synthetic": the seed of everything drawn


@dataclass
class MiningConfig:
    """Tuples of hard negatives, mined anew with the network as it is before every epoch: data.sampling "tuples"."""

    queries: int = 2000  # tuples per epoch
    pool: int = 20000  # random photographs among which the negatives are looked for
    tuples_per_batch: int = 5
    image_size: int = 0  # longest side of a photograph while mining, pixels; 0 = data.image_size


@dataclass
class SmoothingConfig:
    """Method 1: `models/smoothing.py`."""

    enabled: bool = False
    form: str = "learnable"  # or one of your own
    window: int = 3  # K, odd, positions
    kernel_dim: int = 16  # d, length of a kernel feature
    hidden: int = 64  # channels between the generator's two convolutions
    iterations: int = 1
    dilation: int = 1  # positions between neighbours
    start: str = "identity"  # or "average": what the layer does before training
    bandwidth: bool = True  # learn a; False keeps it as it starts
    confidence: bool = True  # learn c; False keeps it as it starts
    # For experiments, instead of it: "layer" or "weight" of every position alone, or its neighbours "shuffled".
    control: str = ""


@dataclass
class RefinementConfig:
    """Method 2: `models/propagation.py` and, in its free form, `models/graph.py`."""

    enabled: bool = False
    # "span": nodes become averages of nodes; "free": a perceptron adds what it likes to them; or one of your own
    form: str = "span"
    nodes: int = 48  # strongest local features that become nodes
    neighbours: int = 4  # edges per node in space, and again in feature similarity
    blocks: int = 2
    importance: bool = True  # span: learn how much each node counts, from its feature and its context
    width: int = 256  # free: channels of a node
    strength: str = "norm"  # free: "norm" (L2 norm) or "attention" (learned) picks the nodes
    rebuild: bool = False  # free: rebuild the similarity edges before every block
    edges: str = "both"  # kinds of edges: "both", "space" or "similarity"
    control: str = ""  # for experiments: "shuffled" gives every node another's position


@dataclass
class AttentionConfig:
    """SOLAR's second-order attention: `models/attention.py`."""

    stages: tuple[str, ...] = ()  # a block after each of these backbone stages: "c4", "c5", or "last" of the Lite ones


@dataclass
class LocalConfig:
    """Local features and their strengths beside the descriptor: `models/local_features.py`, `models/delg.py`."""

    enabled: bool = False
    kind: str = "how"  # "how": of the pooled map, not trained; "delg": of stage c4, with losses of their own
    window: int = 3  # how: of the plain average before the reduction, odd, positions; 1 for none
    dim: int = 128  # length of a local feature, after the reduction
    init: str = "pca"  # how: the reduction, which is not trained: "pca" whitens those of the training set; "weights"


@dataclass
class ModelConfig:
    """Backbone stage [with attention] -> [smoothing] -> [refinement] -> pooling -> L2 -> [whitening] -> L2."""

    backbone: str = "efficientnet_lite0"  # or one of your own, as pool too
    # "auto": ImageNet's, of the installed package; a name of weights that come with this one; "none": random; a file,
    # see `models/weights/`; or a network that was trained here, of which what fits is taken: the workdir of its run, a
    # step in it, or a folder of `Retriever.save`
    weights: str = "auto"
    stage: str = "last"  # the map that is pooled: "c3", "c4", "c5" or "last"
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    # "gem", "mac", "spoc", "rmac", "superglobal", or "how": the local features by their strength; or the backbone's
    # own: "class_token", or "attention": SigLIP's and Perception Encoder's attention pooling
    pool: str = "gem"
    pool_p: float = 3.0  # GeM exponent at the start; one p per channel is learned. SuperGlobal's is 4.6
    pool_shared: bool = False  # one p for all channels, as published
    l2_pooled: bool = True  # normalise the pooled vector before the whitening layer; DIR's networks do not
    l2_added: bool = False  # x / (|x| + 1e-6), as the networks of cirtorch, SOLAR and HOW were trained
    relu_floor: float = 0.0  # SuperGlobal's ReLUP in a ResNet, published with 0.014; 0 for none
    whitening: bool = True  # a fully connected layer after pooling
    whitening_dim: int = 512  # its outputs
    # Its start, of the training set: "pca" or "within" (what photographs of one instance differ in, regularised);
    # "random"; or "weights": the file's.
    whitening_init: str = "pca"
    whitening_shrinkage: float = 0.4  # of "pca": 1 whitens fully, 0 only rotates
    whitening_ridge: float = 0.0  # of "within": in units of the mean variance; 0: by cross-validation over instances
    dtype: str = "float32"  # compute type of backbone and heads; descriptors are always float32
    # Keyword arguments of backbone, smoothing, refinement and pooling of your own: {name: {argument: value}}
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class TrainConfig:
    steps: int = 300  # optimiser steps
    # Over pairs "contrastive", "infonce", "multi_similarity", "triplet", "solar"; over weights per instance "arcface",
    # "cosface", "subcentre_arcface", "curricularface". Mined tuples have their own forms of "contrastive", "triplet"
    # and "solar". Or one of your own.
    loss: str = "contrastive"
    margin: float = 0.7  # of the loss; a distance, an angle (radians) or a similarity
    temperature: float = 0.07  # infonce: divides the cosine before the softmax
    scale: float = 32.0  # arcface and its kind: multiplies the cosine before the softmax
    sub_centres: int = 3  # subcentre_arcface: weight vectors per instance
    negatives: int = 5  # of each query: mined ones; or for solar without mining the nearest of the batch
    solar_weight: float = 10.0  # solar: lambda of its second-order term
    optimizer: str = "adamw"  # or "adam" (weight decay is part of the gradient), "sgd" (momentum 0.9, Nesterov)
    learning_rate: float = 1e-3  # peak, heads
    backbone_lr: float = 0.1  # multiplies learning_rate in the backbone
    pool_lr: float = 10.0  # multiplies learning_rate for the GeM exponents
    whitening_lr: float = 0.01  # multiplies learning_rate for the whitening layer: few instances over-fit it
    schedule: str = "cosine"  # fall of the learning rate: to 0 over all steps, or "exponential" by epochs
    epoch_steps: int = 400  # exponential: steps of an epoch
    epoch_decay: float = 0.99  # exponential: multiplies the learning rate after every epoch
    warmup_steps: int = 20
    weight_decay: float = 1e-4  # never on p
    decayed: str = "kernels"  # what decays: "kernels", or with "all" norms and biases too
    clip_norm: float = 1.0  # greatest norm of the gradient; 0: not clipped
    accumulate: int = 1  # batches whose gradients are averaged into one step
    train_from: str = "none"  # first backbone stage that trains: "all", "c2" ... "c5", "last", or "none"
    # Of the weights it started from, in the backbone that is validated and kept: 0.5 is the mean of before and after,
    # which gains most of what training does and forgets little of what the start knew of other things.
    start_share: float = 0.0
    batch_stats: str = "frozen"  # BatchNorm statistics: "frozen" or "updated"
    # Make the map of the last stage that does not train once per photograph, keep it, and train on views of it: a step
    # takes a fraction of the time. False: train on views of the photographs.
    on_maps: bool = False
    parallel: str = "pmap"  # what runs a step on all devices: "pmap" or "shard_map", with equal bits
    # Fill the whitening layer again when training is done, and to validate: "none", or in closed form "pca", "within".
    whitening_refit: str = "none"
    validate_every: int = 0  # steps; the network that is best on held-out instances is kept. 0: the last is kept
    patience: int = 0  # validations without a better network after which training ends; 0: it runs to its last step
    log_every: int = 10  # steps
    save_every: int = 100  # steps
    keep: int = 2  # newest checkpoints kept
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of a loss of your own: see ModelConfig.parts


@dataclass
class WhiteningConfig:
    """Whitening learned after training and stored with the checkpoint; it acts on the finished descriptor."""

    # "pca", "pairs" (learned from matching pairs, as cirtorch does), "within" (what photographs of one instance differ
    # in, regularised), or "weights": the one that model.weights has
    kind: str = "none"
    dim: int = 0  # descriptor length after it; 0 keeps all
    shrinkage: float = 1.0  # exponent s of the eigenvalues: P = diag(l^(-s/2)) V^T; 0.5 is a power of 0.25
    ridge: float = 0.0  # of "within": in units of the mean variance; 0: by cross-validation over instances


@dataclass
class Config:
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    mining: MiningConfig = field(default_factory=MiningConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    whitening: WhiteningConfig = field(default_factory=WhiteningConfig)
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    local: LocalSearchConfig = field(default_factory=LocalSearchConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    localize: LocalizeConfig = field(default_factory=LocalizeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    # Go on, or describe, with parts of your own whose source is another one than what was trained with.
    changed_parts: bool = False
    # Filled where a config is written: {"pooling trimmed": "my_pooling.py <sha256 of its source>"}
    sources: dict[str, str] = field(default_factory=dict)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values, tuples as lists."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return to_dict(value)
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, tuple | list) else value

    return {one.name: plain(getattr(config, one.name)) for one in dataclasses.fields(config)}


def from_dict(values: dict[str, Any], cls: type = Config) -> Any:
    """Inverse of `to_dict`. An unknown field is an error that names it."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(f"config: unknown field {unknown[0]!r} in {cls.__name__}; known: {', '.join(fields)}")
    default = cls()
    if cls is RefinementConfig and "form" not in values:  # written before there was a choice
        values = values | {"form": "free"} if values.get("enabled") else {}
    out = {}
    for name, value in values.items():
        now = getattr(default, name)
        if dataclasses.is_dataclass(now):
            value = from_dict(value, type(now))
        elif isinstance(now, tuple):
            value = tuple(value)
        out[name] = value
    return cls(**out)


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """`(dotted field, value in a, value in b)` for every field in which two config dicts differ."""
    out = []
    for key in sorted(set(a) | set(b)):
        x, y = a.get(key, "<absent>"), b.get(key, "<absent>")
        if isinstance(x, dict) and isinstance(y, dict):
            out += differences(x, y, f"{prefix}{key}.")
        elif x != y:
            out.append((prefix + key, x, y))
    return out


def photos_per_batch(config: Config) -> int:
    """Photographs of one batch over all devices."""
    if config.data.sampling == "tuples":
        return config.mining.tuples_per_batch * (2 + config.train.negatives)
    return config.data.instances_per_batch * config.data.photos_per_instance


def trains_singles(data: DataConfig) -> bool:
    """Whether an instance of one photograph is trained on, with strong views of it as its other photographs."""
    return data.singles or data.dataset == "photos"


def steps_per_epoch(config: Config) -> int:
    """Optimiser steps from one mining to the next; tuples that do not fill a step are not used."""
    return config.mining.queries // (config.mining.tuples_per_batch * config.train.accumulate)
