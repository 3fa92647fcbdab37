"""Every setting of the project, with its range, its unit and its default; there are none anywhere else. What follows
training is in `config/search.py`.

A field's type says what it may hold (`config/rules.py`), its comment what that means: the help and the documentation
are made of both.

An experiment is a file in `configs/` whose `get_config()` returns a `Config`; the command line overrides
single fields (`--config.train.steps=200`). `sret_jax.config.validation` says which values can be used together.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from sret_jax.config.names import BACKBONES, POOLINGS, STAGES
from sret_jax.config.rules import (
    MOST_STEPS,
    Between,
    Count,
    Factor,
    FilePath,
    OneOf,
    Parts,
    Pixels,
    PlainDict,
    Rate,
    Ridge,
    Seed,
    Share,
    ShareBelow1,
    Steps,
    StepsOrNone,
    Text,
    Word,
    check,
    ruled,
    shown,
)
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


@ruled
@dataclass
class DataConfig:
    """The photographs to train on and the shapes in which every photograph travels."""

    # "folder": any <instance>/<photo> tree; "photos": any tree, every photograph in it an instance of its own; "sfm":
    # tuples of 3D models; "landmarks": Google's; "synthetic": drawn
    dataset: Annotated[str, OneOf("folder", "photos", "landmarks", "sfm", "synthetic")] = "folder"
    # The photo folder (datasets "folder", "photos"), or that of retrieval-SfM-*.pkl and ims/ ("sfm"), or of train.csv
    # or train_clean.csv and train/ ("landmarks"). Several photo folders are separated by commas, "A,B": instances and
    # photographs are then named <folder>/<name>, and those of different folders never mix.
    root: FilePath = ""
    # JSON file {split: [instance, ...]}; "" uses every instance of root. Of several folders one each, separated by
    # commas, and nothing for one all of whose instances are used: "A.json,"
    splits: FilePath = ""
    split: Word = "train"  # which entry of `splits` to train on; dataset "sfm": "train" or "val"
    validation: Word = "val"  # which entry of `splits` to validate on, where it has one
    held_out: ShareBelow1 = 0.2  # otherwise: share of the training instances that are validated on instead
    # what a batch holds: "instances" (P*K), "balanced", "random", "tuples" (mined)
    sampling: Annotated[str, OneOf("instances", "balanced", "random", "tuples")] = "instances"
    # "instances": a source with m instances is drawn in proportion to m ** source_balance; 1 draws every instance
    # alike, 0 every source. Sources are the folders of root, and within one the instances' names before "__".
    source_balance: Share = 1.0
    # "instances": train on instances of one photograph too. What repeats a photograph of its batch, because its
    # instance has fewer than K, is shown through strong views: from elsewhere, partly hidden, in other light. Dataset
    # "photos" always does so.
    singles: bool = False
    # Of strong views: how far each corner moves, as a share of the side, 0 to 0.5; occlusion (up to 15 % of the area,
    # twice), light, blur and noise go with it. 0 = off: a view like any other.
    view_strength: Annotated[float, Between(0, 0.5)] = 0.25
    cache_dir: FilePath = ""  # where prepared ArrayRecord files go; "" = <workdir>/data
    image_size: Pixels = 320  # longest side of a photograph after resizing, pixels
    enlarge: bool = True  # upscale smaller photographs at extraction; cirtorch and its kin leave them as they are
    # Of the resizing: "bicubic", "bilinear", "lanczos" (Pillow's, antialiased), or "thumbnail": lanczos in the two
    # steps of Pillow's `thumbnail`. Part of what a network was trained with, as the next
    filter: Annotated[str, OneOf("bicubic", "bilinear", "lanczos", "thumbnail")] = "bicubic"
    # Of the shorter side, to the multiple of pixels that the backbone needs: "nearest"; "down", as Pillow's `thumbnail`
    # did before version 7, and cirtorch, HOW and SOLAR with it; "aspect": the nearer in aspect, as it does since
    rounding: Annotated[str, OneOf("nearest", "down", "aspect")] = "nearest"
    # short/long side of the padded shapes beside the square
    bucket_ratios: Annotated[tuple[float, ...], Between(0, 1, above=True), Count(0, 8)] = (0.75,)
    instances_per_batch: Annotated[int, Between(1, 65536)] = 8  # P
    photos_per_instance: Annotated[int, Between(2, 1024)] = 4  # K; the global batch is P*K photographs
    # random crop: least and greatest share of the photo's area
    crop_area: Annotated[tuple[float, float], Between(0, 1, above=True), Count(2, 2, ascending=True)] = (0.4, 1.0)
    flip: Share = 0.5  # probability of a horizontal flip
    colour: Share = 0.3  # strength of brightness, contrast and saturation jitter, 0 = off
    jpeg: Share = 0.3  # probability of re-compression
    # range of the re-compression quality
    jpeg_quality: Annotated[tuple[int, int], Between(1, 100), Count(2, 2, ascending=True)] = (30, 95)
    # stored maps: range of a crop's size, of its own; (1, 1): as it is
    map_scale: Annotated[tuple[float, float], Between(0, 8, above=True), Count(2, 2, ascending=True)] = (1.0, 1.0)
    map_drop: ShareBelow1 = 0.0  # stored maps: share of the positions that a view hides
    threads: Annotated[int, Between(1, 256)] = 4  # decoding threads
    synthetic_instances: Annotated[int, Between(1, 10_000)] = 40  # dataset "synthetic": objects in the training split
    synthetic_photos: Annotated[int, Between(1, 10_000)] = 10  # dataset "synthetic": photographs of each object
    synthetic_seed: Seed = 0  # dataset "synthetic": the seed of everything drawn


@ruled
@dataclass
class MiningConfig:
    """Tuples of hard negatives, mined anew with the network as it is before every epoch: data.sampling "tuples"."""

    queries: Annotated[int, Between(1, 10_000_000)] = 2000  # tuples per epoch
    pool: Annotated[int, Between(1, 10_000_000)] = 20000  # random photographs among which the negatives are looked for
    tuples_per_batch: Annotated[int, Between(1, 65536)] = 5
    # longest side of a photograph while mining; 0 = data.image_size
    image_size: Annotated[int, Between(16, 8192, "pixels", zero=True)] = 0


@ruled
@dataclass
class SmoothingConfig:
    """Method 1: `models/smoothing.py`."""

    enabled: bool = False
    form: Annotated[str, OneOf("learnable", own="smoothing")] = "learnable"  # or one of your own
    window: Annotated[int, Between(1, 99, "positions", odd=True)] = 3  # K
    kernel_dim: Annotated[int, Between(1, 1024)] = 16  # d, length of a kernel feature
    hidden: Annotated[int, Between(1, 4096)] = 64  # channels between the generator's two convolutions
    iterations: Annotated[int, Between(1, 16)] = 1
    dilation: Annotated[int, Between(1, 64, "positions")] = 1  # positions between neighbours
    # or "average": what the layer does before training
    start: Annotated[str, OneOf("identity", "average")] = "identity"
    bandwidth: bool = True  # learn a; False keeps it as it starts
    confidence: bool = True  # learn c; False keeps it as it starts
    # For experiments, instead of it: "layer" or "weight" of every position alone, or its neighbours "shuffled".
    control: Annotated[str, OneOf("", "layer", "weight", "shuffled")] = ""


@ruled
@dataclass
class RefinementConfig:
    """Method 2: `models/propagation.py` and, in its free form, `models/graph.py`."""

    enabled: bool = False
    # "span": nodes become averages of nodes; "free": a perceptron adds what it likes to them; or one of your own
    form: Annotated[str, OneOf("span", "free", own="refinement")] = "span"
    nodes: Annotated[int, Between(1, 4096)] = 48  # strongest local features that become nodes
    neighbours: Annotated[int, Between(1, 256)] = 4  # edges per node in space, and again in feature similarity
    blocks: Annotated[int, Between(1, 16)] = 2
    importance: bool = True  # span: learn how much each node counts, from its feature and its context
    width: Annotated[int, Between(1, 4096)] = 256  # free: channels of a node
    # free: "norm" (L2 norm) or "attention" (learned) picks the nodes
    strength: Annotated[str, OneOf("norm", "attention")] = "norm"
    rebuild: bool = False  # free: rebuild the similarity edges before every block
    # kinds of edges: "both", "space" or "similarity"
    edges: Annotated[str, OneOf("both", "space", "similarity")] = "both"
    # for experiments: "shuffled" gives every node another's position
    control: Annotated[str, OneOf("", "shuffled")] = ""


@ruled
@dataclass
class AttentionConfig:
    """SOLAR's second-order attention: `models/attention.py`."""

    # a block after each of these backbone stages: "c4", "c5", or "last" of the Lite ones
    stages: Annotated[tuple[str, ...], OneOf(*STAGES, own="stage"), Count(0, 6)] = ()


@ruled
@dataclass
class LocalConfig:
    """Local features and their strengths beside the descriptor: `models/local_features.py`, `models/delg.py`."""

    enabled: bool = False
    # "how": of the pooled map, not trained; "delg": of stage c4, with losses of their own
    kind: Annotated[str, OneOf("how", "delg")] = "how"
    # how: of the plain average before the reduction; 1 for none
    window: Annotated[int, Between(1, 99, "positions", odd=True)] = 3
    dim: Annotated[int, Between(1, 8192)] = 128  # length of a local feature, after the reduction
    # how: the reduction, which is not trained: "pca" whitens those of the training set; "weights"
    init: Annotated[str, OneOf("pca", "weights")] = "pca"


@ruled
@dataclass
class ModelConfig:
    """Backbone stage [with attention] -> [smoothing] -> [refinement] -> pooling -> L2 -> [whitening] -> L2."""

    # or one of your own, as pool too
    backbone: Annotated[str, OneOf(*BACKBONES, own="backbone")] = "efficientnet_lite0"
    # "auto": ImageNet's, of the installed package; a name of weights that come with this one; "none": random; a file,
    # see `models/weights/`; or a network that was trained here, of which what fits is taken: the workdir of its run, a
    # step in it, or a folder of `Retriever.save`
    weights: Annotated[str, Text("path", least=1)] = "auto"
    stage: Annotated[str, OneOf(*STAGES, own="stage")] = "last"  # the map that is pooled: "c3", "c4", "c5" or "last"
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    # "gem", "mac", "spoc", "rmac", "superglobal", or "how": the local features by their strength; or the backbone's
    # own: "class_token", or "attention": SigLIP's and Perception Encoder's attention pooling
    pool: Annotated[str, OneOf(*POOLINGS, own="pooling")] = "gem"
    # GeM exponent at the start; one p per channel is learned. SuperGlobal's is 4.6
    pool_p: Annotated[float, Between(0, 100, above=True)] = 3.0
    pool_shared: bool = False  # one p for all channels, as published
    l2_pooled: bool = True  # normalise the pooled vector before the whitening layer; DIR's networks do not
    l2_added: bool = False  # x / (|x| + 1e-6), as the networks of cirtorch, SOLAR and HOW were trained
    # SuperGlobal's ReLUP in a ResNet, published with 0.014; 0 for none
    relu_floor: Annotated[float, Between(0, 100)] = 0.0
    whitening: bool = True  # a fully connected layer after pooling
    whitening_dim: Annotated[int, Between(1, 65536)] = 512  # its outputs
    # Its start, of the training set: "pca" or "within" (what photographs of one instance differ in, regularised);
    # "random"; or "weights": the file's.
    whitening_init: Annotated[str, OneOf("pca", "within", "random", "weights")] = "pca"
    whitening_shrinkage: Share = 0.4  # of "pca": 1 whitens fully, 0 only rotates
    whitening_ridge: Ridge = 0.0  # of "within": in units of the mean variance; 0: by cross-validation over instances
    # compute type of backbone and heads; descriptors are always float32
    dtype: Annotated[str, OneOf("float32", "bfloat16")] = "float32"
    # Keyword arguments of backbone, smoothing, refinement and pooling of your own: {name: {argument: value}}
    parts: Parts = field(default_factory=dict)


@ruled
@dataclass
class TrainConfig:
    steps: Steps = 300  # optimiser steps
    # Over pairs "contrastive", "infonce", "multi_similarity", "triplet", "solar"; over weights per instance "arcface",
    # "cosface", "subcentre_arcface", "curricularface". Mined tuples have their own forms of "contrastive", "triplet"
    # and "solar". Or one of your own.
    loss: Annotated[
        str,
        OneOf("contrastive", "infonce", "multi_similarity", "triplet", "solar", *CLASSIFYING, own="loss"),
    ] = "contrastive"
    margin: Annotated[float, Between(0, 10)] = 0.7  # of the loss; a distance, an angle (radians) or a similarity
    temperature: Annotated[float, Between(0, 100, above=True)] = 0.07  # infonce: divides the cosine before the softmax
    # arcface and its kind: multiplies the cosine before the softmax
    scale: Annotated[float, Between(0, 10_000, above=True)] = 32.0
    sub_centres: Annotated[int, Between(1, 1000)] = 3  # subcentre_arcface: weight vectors per instance
    # of each query: mined ones; or for solar without mining the nearest of the batch
    negatives: Annotated[int, Between(1, 1000)] = 5
    solar_weight: Factor = 10.0  # solar: lambda of its second-order term
    # or "adam" (weight decay is part of the gradient), "sgd" (momentum 0.9, Nesterov)
    optimizer: Annotated[str, OneOf("adamw", "adam", "sgd")] = "adamw"
    learning_rate: Rate = 1e-3  # peak, heads
    backbone_lr: Factor = 0.1  # multiplies learning_rate in the backbone
    pool_lr: Factor = 10.0  # multiplies learning_rate for the GeM exponents
    whitening_lr: Factor = 0.01  # multiplies learning_rate for the whitening layer: few instances over-fit it
    # fall of the learning rate: to 0 over all steps, or "exponential" by epochs
    schedule: Annotated[str, OneOf("cosine", "exponential")] = "cosine"
    epoch_steps: Steps = 400  # exponential: steps of an epoch
    # exponential: multiplies the learning rate after every epoch
    epoch_decay: Annotated[float, Between(0, 1, above=True)] = 0.99
    warmup_steps: StepsOrNone = 20  # of a run that is shorter: all its steps
    weight_decay: Annotated[float, Between(0, 100)] = 1e-4  # never on p
    # what decays: "kernels", or with "all" norms and biases too
    decayed: Annotated[str, OneOf("kernels", "all")] = "kernels"
    clip_norm: Annotated[float, Between(0, 1e12)] = 1.0  # greatest norm of the gradient; 0: not clipped
    accumulate: Annotated[int, Between(1, 65536)] = 1  # batches whose gradients are averaged into one step
    # first backbone stage that trains: "all", "c2" ... "c5", "last", or "none"
    train_from: Annotated[str, OneOf("all", "none", *STAGES, own="stage")] = "none"
    # Of the weights it started from, in the backbone that is validated and kept: 0.5 is the mean of before and after,
    # which gains most of what training does and forgets little of what the start knew of other things.
    start_share: Share = 0.0
    batch_stats: Annotated[str, OneOf("frozen", "updated")] = "frozen"  # BatchNorm statistics: "frozen" or "updated"
    # Make the map of the last stage that does not train once per photograph, keep it, and train on views of it: a step
    # takes a fraction of the time. False: train on views of the photographs.
    on_maps: bool = False
    # what runs a step on all devices: "pmap" or "shard_map", with equal bits
    parallel: Annotated[str, OneOf("pmap", "shard_map")] = "pmap"
    # Fill the whitening layer again when training is done, and to validate: "none", or in closed form "pca", "within".
    whitening_refit: Annotated[str, OneOf("none", "pca", "within")] = "none"
    validate_every: StepsOrNone = 0  # the network that is best on held-out instances is kept. 0: the last is kept
    # validations without a better network after which training ends; 0: it runs to its last step
    patience: Annotated[int, Between(0, MOST_STEPS, "validations")] = 0
    log_every: Steps = 10
    save_every: Steps = 100
    keep: Annotated[int, Between(1, 10_000)] = 2  # newest checkpoints kept
    parts: Parts = field(default_factory=dict)  # of a loss of your own: see ModelConfig.parts


@ruled
@dataclass
class WhiteningConfig:
    """Whitening learned after training and stored with the checkpoint; it acts on the finished descriptor."""

    # "pca", "pairs" (learned from matching pairs, as cirtorch does), "within" (what photographs of one instance differ
    # in, regularised), or "weights": the one that model.weights has
    kind: Annotated[str, OneOf("none", "pca", "pairs", "within", "weights")] = "none"
    dim: Annotated[int, Between(0, 65536)] = 0  # descriptor length after it; 0 keeps all
    shrinkage: Share = 1.0  # exponent s of the eigenvalues: P = diag(l^(-s/2)) V^T; 0.5 is a power of 0.25
    ridge: Ridge = 0.0  # of "within": in units of the mean variance; 0: by cross-validation over instances


@ruled
@dataclass
class Config:
    seed: Seed = 0
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
    sources: Annotated[dict[str, str], PlainDict("{kind and name of a part: file and digest}", str)] = field(
        default_factory=dict
    )


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values, tuples as lists."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return to_dict(value)
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, tuple | list) else value

    return {one.name: plain(getattr(config, one.name)) for one in dataclasses.fields(config)}


def from_dict(values: dict[str, Any]) -> Config:
    """Inverse of `to_dict`.

    Names of parts of one's own are taken as they are: `own_parts.check_sources` says which are missing.

    Raises `UserError` that names an unknown field, or one whose value its rule refuses.
    """
    config: Config = _built(values, Config, "config.")
    check(config, "config.")
    return config


def _built(values: object, cls: type, path: str) -> Any:
    """A section, whose values nothing has checked yet."""
    if not isinstance(values, dict):
        raise UserError(f"{path[:-1]}={shown(values)}: must be the fields of a {cls.__name__}, by their names")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(f"{path[:-1]}: unknown field {unknown[0]!r} in {cls.__name__}; known: {', '.join(fields)}")
    if cls is RefinementConfig and "form" not in values:  # written before there was a choice
        values = values | {"form": "free"} if values.get("enabled") else {}
    section = cls()
    for name, value in values.items():
        now = getattr(section, name)
        if dataclasses.is_dataclass(now):
            value = _built(value, type(now), f"{path}{name}.")
        elif isinstance(now, tuple) and isinstance(value, list):
            value = tuple(value)
        setattr(section, name, value)
    return section


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
