"""Foreign checkpoints, network for network: what the file's authors compute from a photograph is what we compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sret_jax.cli.convert import main
from sret_jax.config import AttentionConfig, Config, LocalConfig, ModelConfig, WhiteningConfig
from sret_jax.errors import UserError
from sret_jax.models.backbones.base import IMAGE_DEVIATION, IMAGE_MEAN
from sret_jax.models.backbones.vit_specs import SPECS
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.weights.file import read_weights
from sret_jax.models.weights.layouts import FORMS, find_layout
from sret_jax.models.weights.pretrained import stored_whitening
from sret_jax.models.whitening import apply_whitening
from sret_jax.storage.row_store import RowStore
from tests.support.commands import run_eval

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

from tests.support.torch_resnet import random_resnet  # noqa: E402
from tests.support.torch_retrieval import Cirtorch, Dir, How, solar  # noqa: E402
from tests.support.torch_vit import TimmVisionTransformer, VisionTransformer, random_vit  # noqa: E402

MEAN, STD = [0.4, 0.45, 0.5], [0.2, 0.25, 0.3]  # not ImageNet's
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
CIRTORCH = {"backbone": "resnet18", "whitening_dim": 512, "whitening_init": "weights", "l2_added": True}


def _expected(reference, mean=MEAN, std=STD):
    x = (torch.tensor(IMAGES) / 255 - torch.tensor(mean)) / torch.tensor(std)
    with torch.no_grad():
        return reference.eval()(x.movedim(3, 1))


def _ours(path, **fields):
    """The descriptors and intermediates of the network that these weights start."""
    config = ModelConfig(weights=str(path), **fields)
    network = build_network(config)
    variables = init_network(network, config, jax.random.key(0))
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    mask = jnp.ones(IMAGES.shape[:3], bool)
    return jax.jit(network.apply, compiler_options=quick)(variables, jnp.asarray(IMAGES), mask)


def _same(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), theirs.double().numpy()
    assert ours.shape == theirs.shape
    axes = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    assert ((ours * theirs).sum(-1) / axes).min() > 0.99999


def _saved(network, path, **beside):
    torch.save(beside | {"state_dict": network.state_dict()}, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("channelwise", [False, True])
def test_cirtorch(channelwise, tmp_path):
    """With one exponent, and converted with one per channel; mean and deviation come from the file's meta."""
    reference = Cirtorch(p=np.linspace(1.5, 4, 512, dtype=np.float32) if channelwise else [2.6])
    meta = {"architecture": "resnet18", "pooling": "gem", "mean": MEAN, "std": STD, "Lw": {}, "outputdim": 512}
    path = _saved(reference, tmp_path / "gl18.pth", meta=meta)
    if channelwise:
        main([str(path), str(path := tmp_path / "gl18.safetensors")])
    _same(_ours(path, **CIRTORCH)[0], _expected(reference))


def test_solar(tmp_path):
    reference = solar()
    path = _saved(reference, tmp_path / "solar.pth", meta={"mean": MEAN, "std": STD, "soa": True, "soa_layers": "45"})
    attention = AttentionConfig(stages=("c4", "c5"))
    _same(_ours(path, attention=attention, **CIRTORCH)[0], _expected(reference))


@pytest.mark.parametrize(("name", "skipped", "old"), [("resnet18", 0, True), ("resnet50", 1, False)])
def test_how(name, skipped, old, tmp_path):
    """Local features and strengths; ResNet-50 without its last block, ResNet-18 in the authors' older form."""
    reference = How(name, skipped)
    state = reference.state_dict()
    runtime = {"net_params": {"runtime": {"mean_std": [MEAN, STD]}}, "_version": "how/2020", "scores": {"x": [0.5]}}
    if old:
        state = {k.replace("dim_reduction", "whiten"): v for k, v in state.items()}
        runtime = {"meta": {"mean": MEAN, "std": STD, "skip_layer": 0, "dim": 16}}
    path = tmp_path / "how.pth"
    torch.save(runtime | {"state_dict": state}, path)
    fields = {"backbone": name, "pool": "how", "whitening": False, "stage": "c4" if skipped else "c5"}
    _, seen = _ours(path, local=LocalConfig(enabled=True, dim=16, init="weights"), **fields)
    features, strengths = _expected(reference)
    _same(seen["local"]["features"], features.movedim(1, 3))
    np.testing.assert_allclose(seen["local"]["strength"], strengths, rtol=1e-5)
    if skipped:
        with pytest.raises(UserError, match=r"ends at stage 'c4'; set config.model.stage=c4"):
            _ours(path, **(fields | {"stage": "c5", "pool": "gem"}))


def test_dir(tmp_path):
    """Its fully connected layer takes the pooled vector as it is, which the config must say."""
    reference = Dir()
    options = {"arch": "resnet18_rmac", "out_dim": 24, "pooling": "gem", "gemp": 3}
    path = _saved(reference, tmp_path / "dir.pt", model_options=options)
    fields = CIRTORCH | {"whitening_dim": 24, "l2_added": False}
    _same(_ours(path, l2_pooled=False, **fields)[0], _expected(reference, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with pytest.raises(UserError, match=r"its whitening takes the pooled vector; change config.model.l2_pooled"):
        _ours(path, **fields)
    with pytest.raises(UserError, match=r"whitening.bias has the shape \[24\].*\[9\].*whitening_dim"):
        _ours(path, l2_pooled=False, **(fields | {"whitening_dim": 9}))


def _stored(path, **settings):
    config = Config(model=ModelConfig(backbone="resnet18", weights=str(path)), whitening=WhiteningConfig(**settings))
    return stored_whitening(config)


def test_the_whitening_that_cirtorch_learns_after_training(tmp_path, capsys):
    """P (x - m), pickled as numpy arrays, is kept beside the network: it acts on the sum over scales."""
    rng = np.random.default_rng(0)
    m, p = rng.normal(size=(512, 1)) * 0.01, rng.normal(size=(512, 512))
    learned = {"retrieval-SfM-120k": {"ms": {"m": m, "P": p}, "ss": {"m": m, "P": np.asfortranarray(p)}}}
    path, out = tmp_path / "net.pth", tmp_path / "net.safetensors"
    _saved(Cirtorch(), path, meta={"mean": MEAN, "std": STD, "Lw": learned})
    main([str(path), str(out), "--learned-whitening=retrieval-SfM-120k/ss"])
    told = capsys.readouterr().out
    assert (
        "resnet18 up to last, layout cirtorch, from state_dict; holds backbone, pool, whitening, learned whitening"
        in told
    )
    x = rng.normal(size=(3, 512))
    expected = (p @ (x.T - m)).T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(apply_whitening(x, *_stored(out)), expected, atol=1e-5)
    assert _stored(out, dim=100)[1].shape == (512, 100)
    with pytest.raises(UserError, match=r"config.whitening.dim=513, but its whitening has 512"):
        _stored(out, dim=513)
    with pytest.raises(UserError, match="no learned whitening 'x/ss'; it has: retrieval-SfM-120k/ms, retrieval"):
        main([str(path), str(out), "--learned-whitening=x/ss"])
    main([str(path), str(out)])
    with pytest.raises(UserError, match="holds no whitening that was learned after training; convert the checkpoint"):
        _stored(out)


@pytest.mark.parametrize("whiten", [True, False])
def test_the_whitening_of_dir(tmp_path, whiten):
    """scikit-learn's PCA, divided by the variance to the power of 0.25 where it whitens."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = np.random.default_rng(0).normal(size=(60, 24)) * np.arange(1, 25)
    pca = decomposition.PCA(whiten=whiten).fit(x)
    path, out = tmp_path / "dir.pt", tmp_path / "dir.safetensors"
    _saved(Dir(), path, pca={"Landmarks_clean": pca})
    main([str(path), str(out), "--learned-whitening=Landmarks_clean"])
    expected = (x - pca.mean_) @ pca.components_.T
    if whiten:
        expected /= np.power(pca.explained_variance_, 0.25)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(apply_whitening(x, *_stored(out)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "beside",
    [
        {"pca": [1, 2]},
        {"pca": {"x": {"mean_": [0.0, 0.0]}}},
        {"pca": {"x": {"mean_": [0.0], "components_": [[1.0]], "whiten": True, "explained_variance_": 3.0}}},
        {"meta": {"Lw": {"x": 3}}},
        {"pca": {"x": {"mean_": "abc", "components_": [[1.0]]}}},
    ],
)
def test_a_damaged_whitening_is_one_line(beside, tmp_path):
    path = _saved(Dir(), tmp_path / "dir.pt", **beside)
    with pytest.raises(UserError, match=r"dir.pt: the learned whitening 'x' is incomplete or damaged"):
        main([str(path), str(tmp_path / "dir.safetensors"), "--learned-whitening=x"])


CONFIG = """
from sret_jax.config import Config, DataConfig, ModelConfig, WhiteningConfig

def get_config():
    return Config(
        data=DataConfig(image_size=96, bucket_ratios=(), threads=1),
        model=ModelConfig("resnet18", "net.safetensors", whitening_init="weights", l2_added=True),
        whitening=WhiteningConfig("weights"),
    )
"""


@pytest.mark.slow
def test_the_command_measures_all_of_a_foreign_checkpoint(tmp_path):
    """Its whitening layer, and the whitening that its authors learned after training."""
    rng = np.random.default_rng(0)
    m, p = rng.normal(size=(512, 1)) * 0.01, rng.normal(size=(512, 512))
    reference = Cirtorch()
    learned = {"sfm": {"ss": {"m": m, "P": p}}}
    path = _saved(reference, tmp_path / "net.pth", meta={"mean": MEAN, "std": STD, "Lw": learned})
    main([str(path), str(tmp_path / "net.safetensors"), "--learned-whitening=sfm/ss"])
    (tmp_path / "foreign.py").write_text(CONFIG)
    (tmp_path / "photos/tower").mkdir(parents=True)
    for i, photo in enumerate(IMAGES):
        Image.fromarray(photo).save(tmp_path / f"photos/tower/{i}.png")
    done = run_eval("--config=foreign.py", "--benchmark=folder", "--root=photos", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = torch.tensor(p).float() @ (_expected(reference).T - torch.tensor(m).float())
    _same(RowStore.load(tmp_path / "runs/untrained-foreign/descriptors/folder").read(), expected.T)


@pytest.mark.parametrize("layout", ["torchvision", "cirtorch-imagenet"])
def test_networks_without_heads(layout, tmp_path):
    """torchvision's, and the Caffe-converted features that cirtorch starts from; pooled as cirtorch pools."""
    network, path = Cirtorch(p=[3.0]), tmp_path / "x.pth"
    saved = random_resnet("resnet18") if layout == "torchvision" else network.features  # the same weights
    torch.save(saved.state_dict(), path)
    assert read_weights(path)[1:4] == ("resnet18", "last", layout)
    fields = {"backbone": "resnet18", "whitening": False, "l2_added": True}
    expected = _expected(torch.nn.Sequential(network.features, network.pool), IMAGE_MEAN, IMAGE_DEVIATION)
    _same(_ours(path, **fields)[0], expected)


def test_timm_and_dinov2_name_the_same_network_differently(tmp_path):
    """timm adds the class token's position to the token and keeps the grid alone."""
    state = random_vit("s", registers=True).state_dict()
    torch.save(state, tmp_path / "dinov2.pth")
    timm = {k: v for k, v in state.items() if k not in ("mask_token", "register_tokens")}
    timm |= {"reg_token": state["register_tokens"], "pos_embed": state["pos_embed"][:, 1:]}
    timm["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
    torch.save(timm, tmp_path / "timm.pth")
    a, b = (read_weights(tmp_path / f"{name}.pth") for name in ("dinov2", "timm"))
    assert (a.layout, b.layout) == ("dinov2", "timm") and a.backbone == b.backbone == "dinov2_vits14_reg"
    ours, theirs = (w.variables["params"]["backbone"] for w in (a, b))
    for tree in (ours, theirs):
        tree["class_token"], tree["positions"] = tree["class_token"] + tree["positions"][:1], tree["positions"][1:]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("kind", [VisionTransformer, TimmVisionTransformer])
@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.family == "dinov2"])
def test_keys_of_the_vision_transformers(name, kind):
    """From torch's own names and shapes, without their gigabytes."""
    with torch.device("meta"):
        state = random_vit(name[10], name.endswith("reg"), kind=kind).state_dict()
    shapes = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in state.items()}
    layout = find_layout(shapes, "auto", "x")
    assert layout.name == ("timm" if kind is TimmVisionTransformer else "dinov2")
    assert layout.backbone == name and set(layout.leaves) == set(shapes) - {"mask_token"}
    for key, leaf in layout.leaves.items():
        assert FORMS[leaf.form].wanted(leaf.shape) == shapes[key].shape


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_what_is_written_is_what_is_read(name, tmp_path):
    torch.save(random_resnet(name).state_dict(), tmp_path / "x.pth")
    main([str(tmp_path / "x.pth"), str(tmp_path / "x.safetensors")])
    a, b = read_weights(tmp_path / "x.pth"), read_weights(tmp_path / "x.safetensors")
    assert a[1:] == b[1:]
    assert a[1:7] == (name, "last", "torchvision", "normalized", "x.pth", a.sha256)
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
