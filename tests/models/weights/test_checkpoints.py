"""Checkpoints as people have them: which entry is the network, which prefix its names carry, folders and the hub."""

import argparse
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from sret_jax.cli.convert import main
from sret_jax.errors import UserError
from sret_jax.models.weights import file as module
from sret_jax.models.weights.file import read_weights
from sret_jax.models.weights.layouts import Layout, Leaf
from tests.support.torch_pickles import Global, Storage, tensor, zip_file

UNITS = ("stem", "body", "last")
RNG = np.random.default_rng(0)
STATE = {
    f"{unit}.{part}": RNG.random((4, 4) if part == "weight" else 4, np.float32)
    for unit in UNITS
    for part in ("weight", "bias", "scale")
}
ABOUT = []  # what `find_layout` was told last


def hub_errors():
    return pytest.importorskip("huggingface_hub.errors")


@pytest.fixture(autouse=True)
def tiny_layout(monkeypatch):
    """A network of three layers, whose names are a layout."""
    leaves = {name: Leaf("params", tuple(name.split(".")), value.shape) for name, value in STATE.items()}

    def find(state, name, source, backbone="", about=None):
        ABOUT[:] = [about]
        if "stem.weight" not in state:
            some = ", ".join(repr(k) for k in list(state)[:3])
            raise UserError(f"{source}: no known layout has entries like {some}; choose from tiny")
        return Layout("tiny", "resnet18", "last", leaves, frozenset({"fc.weight"}))

    monkeypatch.setattr(module, "find_layout", find)
    monkeypatch.setattr(module, "recognised", lambda state, name: "stem.weight" in state)


def under(*prefixes, scale=1.0):
    return {prefix + name: value * np.float32(scale) for prefix in prefixes for name, value in STATE.items()}


def save(path, tree):
    """Writes a torch file of dicts, objects and arrays, which become tensors."""
    storages = []

    def made(value):
        if isinstance(value, np.ndarray):
            kind = {"f": "FloatStorage", "e": "HalfStorage", "l": "LongStorage"}[value.dtype.char]
            storages.append(Storage(value.reshape(-1), str(len(storages)), kind=kind))
            return tensor(storages[-1], value.shape)
        return {k: made(v) for k, v in value.items()} if isinstance(value, dict) else value

    path.write_bytes(zip_file(made(tree), storages))
    return path


OBJECT = Global("argparse", "Namespace", "x")
OPTIMIZER = {"state": {0: {"step": np.zeros(1, np.float32), "exp_avg": np.zeros(4, np.float32)}}, "param_groups": [{}]}
RAW = under("", scale=0)  # what must not be taken
LAYOUTS = {
    "plain": (STATE, ""),
    "half": ({name: value.astype(np.float16) for name, value in STATE.items()}, ""),
    "DataParallel": ({"state_dict": under("module.")}, "state_dict/module"),
    "Lightning": ({"state_dict": under("model."), "epoch": 1, "hyper_parameters": OBJECT}, "state_dict/model"),
    "Lightning, net": ({"state_dict": under("net."), "loops": {"fit_loop": OBJECT}}, "state_dict/net"),
    "Lightning, backbone and loss": (
        {"state_dict": under("model.backbone.") | {"loss.weight": np.ones((3, 4), np.float32)}},
        "state_dict/model.backbone",
    ),
    "compiled": ({"state_dict": under("_orig_mod.")}, "state_dict/_orig_mod"),
    "compiled, plain": (under("_orig_mod."), "_orig_mod"),
    "stacked": (under("module._orig_mod.model."), "module._orig_mod.model"),
    "reference scripts": ({"model": STATE, "optimizer": OPTIMIZER, "args": OBJECT, "epoch": 1}, "model"),
    "model_state_dict": ({"model_state_dict": STATE, "optimizer_state_dict": OPTIMIZER}, "model_state_dict"),
    "net": ({"net": under("module."), "acc": 93.1, "epoch": 5}, "net/module"),
    "encoder": ({"encoder": STATE, "step": np.float64(1)}, "encoder"),
    "averaged": ({"n_averaged": np.array(5)} | under("module."), "module"),
    "objects beside": (
        {"state_dict": STATE, "args": OBJECT, "time": np.float64(1), "make": Global("a.b", "f")},
        "state_dict",
    ),
    "random states": ({"model": STATE, "rng": np.arange(8), "history": np.ones(3, np.float32)}, "model"),
    "state_dict_ema": ({"state_dict": RAW, "state_dict_ema": STATE}, "state_dict_ema"),
    "model_ema": ({"model": RAW, "model_ema": under("module."), "optimizer": OPTIMIZER}, "model_ema/module"),
    "ema in a dict": ({"model": RAW, "ema": {"decay": 0.9, "module": STATE}}, "ema/module"),
    "ema in the names": (
        {"state_dict": under("model.", scale=0) | under("ema_model.module.")},
        "state_dict/ema_model.module",
    ),
    "ema beside names without a prefix": (under("", scale=0) | under("ema."), "ema"),
    "names without a prefix beside a momentum encoder": (STATE | under("momentum_encoder.", scale=0), ""),
    "teacher_backbone": (under("backbone.", scale=0) | under("teacher_backbone."), "teacher_backbone"),
    "teacher_backbone, an entry": ({"backbone": RAW, "teacher_backbone": STATE}, "teacher_backbone"),
    "teacher": ({"student": under("module.backbone.", scale=0), "teacher": under("backbone.")}, "teacher/backbone"),
    "teacher in the names": (
        {
            "model": under("student.backbone.", scale=0)
            | under("teacher.backbone.")
            | {"teacher.dino_head.a": np.ones(3, np.float32)}
        },
        "model/teacher.backbone",
    ),
    "MoCo": (
        {
            "state_dict": under("module.encoder_k.", scale=0)
            | under("module.encoder_q.")
            | {"module.encoder_q.fc.0.weight": np.ones((4, 4), np.float32), "module.queue": np.ones((4, 9), np.float32)}
        },
        "state_dict/module.encoder_q",
    ),
    "two deep": ({"state": {"network": {"weights": STATE}}}, "state/network/weights"),
    "any name": ({"my_embedder": under("trunk."), "epoch": 3}, "my_embedder/trunk"),
    "classifier": ({"state_dict": STATE | {"fc.weight": np.ones((9, 4), np.float32)}}, "state_dict"),
}


def values(weights):
    return {f"{a}.{b}": value for a, tree in weights.variables["params"].items() for b, value in tree.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_network(name, tmp_path):
    tree, part = LAYOUTS[name]
    found = read_weights(save(tmp_path / "x.pth", tree))
    for key, value in values(found).items():
        np.testing.assert_allclose(value, STATE[key], atol=1e-3 if name == "half" else 0)
    assert found.part == part


@pytest.mark.parametrize(
    "name", ["stacked", "compiled, plain", "averaged", "plain", "ema beside names without a prefix", "teacher_backbone"]
)
def test_safetensors_carry_prefixes_too(name, tmp_path):
    tree, part = LAYOUTS[name]
    safetensors.numpy.save_file(tree, tmp_path / "x.safetensors")
    found = read_weights(tmp_path / "x.safetensors")
    assert found.part == part
    np.testing.assert_array_equal(values(found)["last.scale"], STATE["last.scale"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("state_dict_ema", "x.pth: takes state_dict_ema, not state_dict; to choose: FILE#NAME, or --entry and --strip"),
        ("teacher", "takes teacher/backbone, not student; to choose"),
        ("MoCo", "takes state_dict/module.encoder_q, not module.encoder_k; to choose"),
        ("ema in the names", "takes state_dict/ema_model.module, not model; to choose"),
        ("ema beside names without a prefix", "takes ema, not the names without a prefix; to choose"),
        ("teacher_backbone", "takes teacher_backbone, not backbone; to choose"),
    ],
)
def test_what_was_taken_is_said_where_there_was_a_choice(name, text, tmp_path, caplog):
    read_weights(save(tmp_path / "x.pth", LAYOUTS[name][0]))
    assert text in caplog.text


def test_heads_are_left_out_by_name(tmp_path, caplog):
    caplog.set_level("INFO")
    read_weights(save(tmp_path / "x.pth", LAYOUTS["MoCo"][0]))
    assert "x.pth: left out: encoder_k (9), fc, queue" in caplog.text
    read_weights(save(tmp_path / "y.pth", LAYOUTS["classifier"][0]))
    assert "y.pth: left out: fc" in caplog.text
    state = under("model.") | {"model.extra.weight": np.ones(2, np.float32)}
    with pytest.raises(UserError, match=r"z.pth: unexpected entry 'extra\.weight'"):
        read_weights(save(tmp_path / "z.pth", state))


@pytest.mark.parametrize(
    ("part", "scale"),
    [
        ("student", 0),
        ("teacher", 1),
        ("student/module", 0),
        ("student/module/backbone", 0),
        ("student.module.backbone", 0),
    ],
)
def test_a_part_is_chosen_behind_the_name_of_the_file(part, scale, tmp_path):
    path = save(tmp_path / "x#1.pth", LAYOUTS["teacher"][0])
    found = read_weights(f"{path}#{part}")
    np.testing.assert_array_equal(values(found)["stem.bias"], STATE["stem.bias"] * scale)


def test_the_command_chooses_entry_and_prefix(tmp_path, capsys):
    path = save(tmp_path / "x.pth", LAYOUTS["MoCo"][0])
    for words in (["--strip=module.encoder_k."], ["--entry=state_dict", "--strip=module.encoder_k"]):
        main([str(path), str(tmp_path / "y.safetensors"), *words])
        assert "from state_dict/module.encoder_k; holds" in capsys.readouterr().out
        np.testing.assert_array_equal(values(read_weights(tmp_path / "y.safetensors"))["stem.bias"], [0] * 4)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (
            {"generator": STATE, "discriminator": STATE, "epoch": 1},
            r"its entries 'generator', 'discriminator' hold a network each; choose one: FILE#NAME, or --entry and",
        ),
        (under("left.", "right."), r"names that begin with 'left\.', 'right\.' are of a network each; choose one"),
        ({"epoch": 1, "args": OBJECT}, r"it holds no state dict, but 'epoch' \(a int\), 'args' \(it names the Python"),
        (
            {"state_dict": {f"tower.{k}": v for k, v in zip("abcdefghi", STATE.values(), strict=True)}, "epoch": 1},
            r"no known layout has entries like 'tower\.a', .*; its names begin with 'tower'; beside it are 'epoch'",
        ),
        (
            {"state_dict": STATE | {"stem.extra": OBJECT}},
            r"names the Python object argparse.Namespace, at the entry 'stem",
        ),
    ],
)
def test_what_cannot_be_guessed_is_asked_for_with_the_names_that_are_there(tree, text, tmp_path):
    with pytest.raises(UserError, match=rf"x\.pth: .*{text}") as error:
        read_weights(save(tmp_path / "x.pth", tree))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "missing"), [("techer", "techer"), ("teacher/backbon", "backbon"), ("epoch", "epoch")]
)
def test_a_part_that_is_not_there_is_an_error_with_those_that_are(part, missing, tmp_path):
    path = save(tmp_path / "x.pth", LAYOUTS["teacher"][0] | {"epoch": 3})
    with pytest.raises(
        UserError, match=rf"no part '{missing}'.*its entries are .*'teacher'.*; names begin with 'backbone'"
    ):
        read_weights(path, part=part)


# ---- folders

SHARDS = {"model-00001-of-00002": list(STATE)[:5], "model-00002-of-00002": list(STATE)[5:]}


def folder_of(path, kind, prefix="", **beside):
    """A folder in which transformers, timm or the hub saved the network; `beside`: JSON files."""
    path.mkdir(exist_ok=True)
    for name, content in beside.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    named = under(prefix)
    if kind == "safetensors":
        safetensors.numpy.save_file(named, path / "model.safetensors", {"format": "pt"})
    elif kind == "torch":
        save(path / "pytorch_model.bin", named)
    else:
        ending = "safetensors" if kind == "shards" else "bin"
        for shard, names in SHARDS.items():
            part = {prefix + name: STATE[name] for name in names}
            if kind == "shards":
                safetensors.numpy.save_file(part, path / f"{shard}.safetensors", {"format": "pt"})
            else:
                save(path / f"{shard}.bin", part)
        index = {prefix + name: f"{shard}.{ending}" for shard, names in SHARDS.items() for name in names}
        base = "model.safetensors" if kind == "shards" else "pytorch_model.bin"
        (path / f"{base}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


KINDS = ["safetensors", "torch", "shards", "torch shards"]
CONFIG = {"model_type": "tiny", "hidden_size": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_is_read_with_what_lies_beside(kind, tmp_path):
    pre = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 2}
    path = folder_of(tmp_path / "saved", kind, "vision_model.", config=CONFIG, preprocessor_config=pre)
    found = read_weights(path)
    assert found.filter == "bilinear" and found.source == "saved" and found.part == "vision_model"
    assert ABOUT == [CONFIG]
    statistics = found.variables["batch_stats"]["backbone"]
    np.testing.assert_allclose(statistics["image_mean"], [0.5, 0.4, 0.3], rtol=1e-6)
    np.testing.assert_allclose(statistics["image_deviation"], [0.2, 0.2, 0.1], rtol=1e-6)
    for name, value in values(found).items():
        np.testing.assert_array_equal(value, STATE[name])
    assert values(read_weights(f"local-dir:{path}")).keys() == STATE.keys()


def test_the_file_in_a_saved_folder_knows_what_lies_beside_it(tmp_path):
    timm = {"architecture": "tiny", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}}
    path = folder_of(tmp_path / "saved", "safetensors", config=timm)
    found = read_weights(path / "model.safetensors")
    assert found.filter == "bicubic" and ABOUT == [timm]
    np.testing.assert_allclose(found.variables["batch_stats"]["backbone"]["image_mean"], [0.5] * 3)


def test_a_folder_with_one_file_of_any_name_is_that_file(tmp_path):
    save(tmp_path / "best.ckpt", LAYOUTS["Lightning"][0])
    assert read_weights(tmp_path).part == "state_dict/model"
    save(tmp_path / "last.ckpt", STATE)
    with pytest.raises(
        UserError, match=r"holds no model\.safetensors or pytorch_model\.bin, but best\.ckpt, last\.ckpt; give"
    ):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), r"cannot be opened: No such file"),
        (
            lambda f: rewrite(f, {"stem.weight": "../x.safetensors"}),
            r"names the shard '../x\.safetensors', which is no",
        ),
        (
            lambda f: rewrite(f, {"stem.more": "model-00001-of-00002.safetensors"}),
            r"no entry 'stem\.more' in model-00001",
        ),
        (
            lambda f: rewrite(f, {"stem.weight": "model-00002-of-00002.safetensors"}),
            r"holds 'stem\.weight', which the index",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), r"index\.json: it is \[\], not an object"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), r"index\.json: has no weight_map"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: not JSON"),
    ],
)
def test_a_folder_that_does_not_fit_together_is_refused(change, text, tmp_path):
    path = folder_of(tmp_path / "saved", "shards", config=CONFIG)
    change(path)
    with pytest.raises(UserError, match=text):
        read_weights(path)


def rewrite(folder, names):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_bytes())
    index["weight_map"] |= names
    path.write_text(json.dumps(index))


# ---- the hub, from a cache as it keeps it

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the hub with one repository, and no way to the hub itself."""
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    root = tmp_path / "cache"
    snapshots = root / "models--org--tiny-net" / "snapshots"
    snapshots.mkdir(parents=True)
    folder_of(snapshots / COMMIT, "safetensors", config=CONFIG)
    for ref in ("main", "v1.0"):
        (root / "models--org--tiny-net/refs").mkdir(exist_ok=True)
        (root / f"models--org--tiny-net/refs/{ref}").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    if hasattr(hub.constants, "is_offline_mode"):
        monkeypatch.setattr(hub.constants, "is_offline_mode", lambda: True)
    return root


@pytest.mark.parametrize(
    "name", ["org/tiny-net", "org/tiny-net@v1.0", f"org/tiny-net@{COMMIT}", "org/tiny-net/model.safetensors"]
)
@pytest.mark.parametrize("scheme", ["hf-hub:", "hf_hub:"])
def test_the_hub_is_read_from_its_cache(cache, name, scheme):
    found = read_weights(scheme + name)
    assert found.source == name and ABOUT == [CONFIG]
    np.testing.assert_array_equal(values(found)["stem.bias"], STATE["stem.bias"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("org/other", r"its weights are not in the hub's cache, and the hub cannot be reached; unset HF_HUB_OFFLINE"),
        ("org/tiny-net@v2", r"its weights are not in the hub's cache"),
        ("org/tiny-net/other.pt", r"other\.pt is not in the hub's cache"),
        ("tiny-net", r"no name of a repository; write hf-hub:ORG/NAME"),
        ("org/a b", r"no name of a repository"),
        ("org/tiny--net", r"no name of a repository"),
    ],
)
def test_what_the_cache_does_not_hold_is_one_line(cache, name, text):
    with pytest.raises(UserError, match=rf"hf-hub:{name}: {text}") as error:
        read_weights(f"hf-hub:{name}")
    assert "\n" not in str(error.value)


def test_what_could_not_be_asked_for_is_said_and_what_is_not_there_is_not(cache, caplog):
    for name in ("org/tiny-net", "org/tiny-net/model.safetensors"):
        caplog.clear()
        read_weights(f"hf-hub:{name}")
        assert f"hf-hub:{name}: preprocessor_config.json could not be asked for" in caplog.text
    nowhere = cache / "models--org--tiny-net/.no_exist" / COMMIT
    nowhere.mkdir(parents=True)
    (nowhere / "preprocessor_config.json").touch()  # what the hub's library leaves where the repository has none
    caplog.clear()
    read_weights("hf-hub:org/tiny-net")
    assert not caplog.text


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A hub that is reached: its folder of one repository, and what was asked for, as (revision, file)."""
    hub = pytest.importorskip("huggingface_hub")
    repository, local, asked = tmp_path / "repository", tmp_path / "local", []
    repository.mkdir()

    def download(repo, file, revision=None):
        asked.append((revision, file))
        if not (repository / file).is_file():
            kind = hub_errors().EntryNotFoundError
            raise kind.__new__(kind)
        (local / file).parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(repository / file, local / file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    return repository, asked


@pytest.mark.parametrize("folder", ["", "sub/"])
def test_a_file_of_the_hub_comes_with_what_lies_beside_it(online, folder):
    repository, asked = online
    timm = {"architecture": "tiny", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    folder_of(repository / folder, "safetensors", config=timm)
    found = read_weights(f"hf-hub:org/x/{folder}model.safetensors")
    np.testing.assert_allclose(found.variables["batch_stats"]["backbone"]["image_mean"], [0.5] * 3)
    assert asked == [(None, folder + file) for file in ("model.safetensors", "config.json", "preprocessor_config.json")]


@pytest.mark.parametrize(
    ("revision", "file"),
    [
        ("refs/pr/1", ""),
        ("refs/pr/1", "/sub/best.pt"),
        ("refs/convert/parquet", "/best.pt"),
        ("v1.0", "/sub/best.pt"),
        ("feature/x", ""),
    ],
)
def test_revisions_of_several_parts_end_before_the_file(online, revision, file):
    repository, asked = online
    (repository / "sub").mkdir()
    for name in ("best.pt", "sub/best.pt", "pytorch_model.bin"):
        save(repository / name, STATE)
    read_weights(f"hf-hub:org/x@{revision}{file}")
    assert {given for given, _ in asked} == {revision}
    assert asked[-1][1] == (file[1:] or "preprocessor_config.json")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("GatedRepoError", "its terms have to be accepted on https://huggingface.co/org/x, and then: hf auth login"),
        (
            "RepositoryNotFoundError",
            "the hub has no repository 'org/x', or it is private; correct it, or run: hf auth login",
        ),
        ("RevisionNotFoundError", "org/x has no revision 'v9'; leave @v9 out, or correct it"),
        ("OfflineModeIsEnabled", "cannot be fetched"),
        ("EntryNotFoundError", r"no weights in the repository; it has a.pt, b.pt: write hf-hub:org/x/FILE"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_the_remedy(error, text, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    kind = getattr(hub_errors(), error)

    def refuse(*args, **named):
        made = kind.__new__(kind)
        made.args = ("first line\nsecond",)
        raise made

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    monkeypatch.setattr(hub, "list_repo_files", lambda *args, **named: ["a.pt", "b.pt", "README.md"])
    with pytest.raises(UserError, match=f"hf-hub:org/x@v9: {text}") as found:
        read_weights("hf-hub:org/x@v9")
    assert "\n" not in str(found.value)


def test_without_the_extra_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UserError, match=r"hf-hub:org/x: huggingface_hub is not installed; run: pip install sret_jax\[hub\]"
    ):
        read_weights("hf-hub:org/x")


@pytest.mark.slow
def test_the_environment_is_honoured(cache):
    """HF_HUB_OFFLINE and HF_HUB_CACHE, which the hub's library reads when it is imported."""
    code = "from sret_jax.models.weights.source import located; print(located('hf-hub:org/tiny-net').path)"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(COMMIT)


# ---- what torch writes

torch_only = pytest.mark.parity


def _decay(step):
    return 0.5**step


@torch_only
def test_what_a_training_in_torch_saves_is_read(tmp_path):
    """An optimiser, its schedule, arguments, paths, sets, numpy's numbers, functions by name, a network as object."""
    torch = pytest.importorskip("torch")

    class Unit(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias, self.scale = (torch.nn.Parameter(torch.randn(s)) for s in ((4, 4), (4,), (4,)))

    network = torch.nn.ModuleDict({unit: Unit() for unit in UNITS})
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    sum(p.square().sum() for p in network.parameters()).backward()
    optimizer.step()
    beside = {
        "optimizer": optimizer.state_dict(),
        "schedule": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "args": argparse.Namespace(lr=1, path=tmp_path, tags={"a", "b"}),
        "best": np.float64(0.5),
        "rng": (np.random.get_state(), torch.get_rng_state()),
        "function": _decay,
        "device": torch.device("cpu"),
        "size": torch.Size([3]),
        "type": torch.float16,
        "names": np.array(["a", "b"]),
        "layer": torch.nn.Linear(2, 2),
        "history": {(1, 2): 3, 0.5: [1], 1 << 40: None},
    }
    for protocol, zipped in ((2, True), (2, False), (4, True)):
        path = tmp_path / f"{protocol}{zipped}.ckpt"
        state = {"state_dict": {f"model.{k}": v for k, v in network.state_dict().items()}}
        torch.save(beside | state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        found = read_weights(path)
        assert found.part == "state_dict/model"
        for name, value in values(found).items():
            np.testing.assert_array_equal(value, network.state_dict()[name].numpy())
