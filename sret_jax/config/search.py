"""The settings of what follows training: describing, searching, re-ranking, localization and evaluation."""

from dataclasses import dataclass, field
from typing import Any

PROTOCOLS = {  # of benchmarks with query boxes; what deviates is labelled wherever its numbers are shown
    "standard": "",
    "compat:uncropped": "compat: queries are not cut to their boxes, as in DOLG and CGD; "
    "not comparable with the benchmark's own protocol",
    "compat:junk-first": "compat: what a set does not count is taken out before the first answers are re-ranked, as in "
    "DELG, CVNet and AMES, which takes the ground truth; not comparable with the benchmark's own protocol",
}


@dataclass
class ExtractConfig:
    batch_size: int = 16  # photographs per compiled batch
    scales: tuple[float, ...] = (1.0,)  # of image_size
    scale_pooling: str = "mean"  # over scales: "mean", "max", "power3", or "gem" (by the exponents of the network)
    resized: str = "photo"  # "photo": each scale from the decoded photo; "tensor": from the network's input
    chunk_rows: int = 1024  # photographs per committed chunk


@dataclass
class SearchConfig:
    # Of descriptors "exact", "brute_force", "ah", "tree_ah", or "auto" by the library's size rules; of local features
    # "asmk": those of the network's own head, over local.scales
    method: str = "auto"
    leaves_to_search: int = 0  # tree_ah; 0: chosen by size
    reorder: int = 0  # candidates re-scored exactly; 0: ten per answer
    chunk_rows: int = 131072  # rows scored at once by exact search (bounds its memory)
    words: int = 0  # asmk: visual words; 0: 65,536, or one for 39 local features where there are fewer
    # asmk: folder whose photographs, at any depth, the words are learned on; "": those of data.root and data.split, or
    # without these the photographs searched, which is no fair comparison with words of others
    codebook: str = ""
    codebook_photos: int = 20000  # asmk: of these photographs, at most, evenly spread
    assignments: int = 5  # asmk: visual words per query feature; database features always use one
    binary: bool = True  # asmk: compare the signs of residuals, or with False the residuals


@dataclass
class LocalSearchConfig:
    """Local features of every photograph searched, for spatial verification: `extraction/local_features.py`."""

    # "sift"; of the network: "head" (config.model.local), "map" (what is pooled), "backbone" (the map before smoothing
    # and refinement)
    source: str = "sift"
    most: int = 1000  # features of a photograph, the strongest
    image_size: int = 1024  # sift: longest side of a photograph, pixels; smaller ones are not enlarged
    scales: tuple[float, ...] = (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)  # of data.image_size, where a network looks
    dim: int = 128  # map, backbone: dimension of a feature after a PCA-whitening of the photographs searched
    shrinkage: float = 1.0  # of that whitening, see model.whitening_shrinkage
    chunk_rows: int = 256  # photographs per committed chunk


@dataclass
class RerankConfig:
    """How the first answers are put in a new order; which of it is done says `stages`: `reranking/chain.py`."""

    stages: tuple[str, ...] = ()  # in this order, each NAME or NAME:NUMBER, as of `--rerank=sv:100,aqe:10`
    transform: str = "affine"  # between two photographs of the object: "affine" or "homography"
    # A match is this much nearer than the second nearest; 1: no such test. 0: 0.9 of SIFT, and 1 of a network's own
    # features, of which those of neighbouring positions and scales are alike
    ratio: float = 0.0
    distance: float = 0.0  # greatest distance of a match, features of unit length; 0: any
    mutual: bool = True  # a match is the nearest both ways
    trials: int = 1000  # transforms tried per pair of photographs
    residual: float = 0.02  # greatest error of an inlier, longest side of the photograph = 1
    seed: int = 0
    trusted: int = (
        10  # sv: with fewer inliers, which chance gives too, an answer keeps its place behind those with more
    )
    alpha: float = 3.0  # alpha_qe, dba: weight of a neighbour = cosine^alpha
    beta: float = 0.15  # superglobal: weight of the neighbours
    neighbours: int = 9  # superglobal: of each photograph
    diffusion_alpha: float = 0.99  # diffusion: share that goes on at each step
    diffusion_gamma: float = 3.0  # diffusion: edge = cosine^gamma
    diffusion_queries: int = 10  # diffusion: photographs that a query starts from
    hops: int = 3  # hypergraph: propagations
    inliers: int = 20  # hypergraph: that make two photographs neighbours
    compat: bool = False  # hypergraph: as published, with its faults
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of re-rankers of your own: see ModelConfig.parts


@dataclass
class LocalizeConfig:
    """Where in each photograph found the object of the query is: `localization/localizer.py`."""

    methods: tuple[str, ...] = ()  # compared with each other, as of `--localize=discovery,sv`
    # Of the features: "map" (what is pooled), "backbone" (the map before smoothing and refinement), or an earlier stage
    # of the backbone, such as "c4"; of a transformer also the "keys" of its last block, as LOST was published
    source: str = "map"
    image_size: int = 640  # longest side of a photograph searched, pixels
    query_size: int = 320  # of a query, which shows little beside its object
    refine: str = "grabcut"  # what makes pixels of a heat map: "none" (a threshold), "guided" by edges, or "grabcut"
    inliers: int = 10  # sv: with fewer, nothing is marked; sv+discovery: then discovery takes over
    chunk_rows: int = 64  # photographs per committed chunk of maps
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of methods of your own: see ModelConfig.parts


@dataclass
class EvalConfig:
    benchmarks: tuple[str, ...] = ("synthetic",)  # run after training: "synthetic", "rparis6k+1m", ...
    root: str = ""  # the benchmark's folder, of "folder" also several as in data.root; "" = data.root ("folder")
    split: str = "test"  # benchmark "folder": the entry of data.splits that is searched
    synthetic_instances: int = 16  # benchmark "synthetic": objects, none of them trained on
    synthetic_photos: int = 8
    untrained: bool = False  # also measure the network before training
    gnd: str = ""  # benchmarks like "roxford5k": the ground truth file; "" = gnd_<benchmark>.pkl in root
    distractors: tuple[str, ...] = ()  # folders whose photographs are searched as well, as wrong answers
    protocol: str = "standard"  # one of PROTOCOLS: the others deviate as some published numbers do
    ranked: int = 0  # photographs ranked per query; 0 = all. What is not ranked counts as never found
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of benchmarks of your own: see ModelConfig.parts
