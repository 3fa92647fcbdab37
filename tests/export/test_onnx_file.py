"""ONNX Runtime computes the retriever's descriptors, or nothing is left behind."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from sret_jax.config import AttentionConfig, RefinementConfig, SmoothingConfig
from sret_jax.data.decoding import decode_photo
from sret_jax.errors import UserError
from sret_jax.export import onnx_file
from sret_jax.export.card import snippet
from sret_jax.export.folder import export_retriever
from sret_jax.export.onnx_file import FILE, to_onnx
from sret_jax.export.parity import BOUND, network_inputs, photographs_of_all_shapes
from sret_jax.extraction.preprocessing import preprocessing
from sret_jax.retriever import load
from tests.support.commands import REPOSITORY
from tests.support.exported import SHOWN, shown_as, small_retriever
from tests.support.own_parts import forgotten, write_parts
from tests.support.photo_files import ACCEPTED
from tests.support.photos import photo_set

pytestmark = pytest.mark.parity
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
CONTEXT = {
    "stage": "c3",
    "whitening": True,
    "whitening_dim": 8,
    "smoothing": SmoothingConfig(enabled=True, hidden=4, kernel_dim=2, iterations=2),
    "refinement": RefinementConfig(enabled=True, nodes=6, neighbours=2, blocks=1),
}


@pytest.mark.parametrize(
    ("model", "learned"),
    [
        pytest.param(CONTEXT, 5, id="smoothing and span refinement"),
        pytest.param(
            {
                "stage": "c2",
                "refinement": RefinementConfig(True, "free", 6, 2, 2, width=8, strength="attention", rebuild=True),
            },
            0,
            id="free refinement",
        ),
        pytest.param({"stage": "c3", "backbone": "resnet18"}, 0, id="resnet"),
        pytest.param(
            {"stage": "c4", "backbone": "resnet18", "attention": AttentionConfig(("c4",))},
            0,
            id="second-order attention",
        ),
        pytest.param({"stage": "c4", "backbone": "dinov2_vits14"}, 0, id="vit"),
        pytest.param({"stage": "c2", "backbone": "resnet18", "pool": "superglobal"}, 0, id="superglobal"),
        pytest.param({"stage": "c2", "pool": "mac", "dtype": "bfloat16"}, 0, id="in float32"),
    ],
)
@pytest.mark.slow
def test_descriptors_are_those_of_the_retriever(model, learned):
    retriever = small_retriever(learned, 56 if "vit" in model.get("backbone", "") else 64, **model)
    data, about = to_onnx(retriever)
    assert about["parity"]["largest difference"] < 1e-5 < BOUND == about["parity"]["bound"]
    assert about["parity"]["photographs"] == 20 and about["parity"]["batches"] == [1, 7]
    inputs = {x.name: x.type.tensor_type for x in onnx.load_from_string(data).graph.input}
    assert inputs["images"].elem_type == onnx.TensorProto.UINT8 and inputs["mask"].elem_type == onnx.TensorProto.BOOL
    assert [d.dim_param for d in inputs["mask"].shape.dim] == ["batch", "height", "width"]


def test_what_differs_is_not_kept(tmp_path, monkeypatch):
    small_retriever(stage="c2").save(tmp_path / "saved")
    session = onnx_file.session
    monkeypatch.setattr(onnx_file, "session", lambda model: lambda *x: session(model)(*x) + np.float32(2e-4))
    with pytest.raises(UserError, match=r"model.onnx is not kept: .* differ by 2.0e-04, more than 1e-04"):
        export_retriever(tmp_path / "saved", tmp_path / "out", as_onnx=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_card_says_where_a_file_is_compared_with_another_precision(tmp_path, dtype):
    small_retriever(stage="c2", dtype=dtype).save(tmp_path / "saved")
    export_retriever(tmp_path / "saved", tmp_path / "out", as_onnx=True, photos=photo_set(n=1))
    said = "from the same parameters in float32, in which it computes; sret_jax computes in bfloat16."
    assert (said in (tmp_path / "out/README.md").read_text()) == (dtype == "bfloat16")


def test_the_program_of_the_card_describes_photographs_from_their_bytes(tmp_path):
    """With Pillow and ONNX Runtime alone, in a process that cannot import the package."""
    small_retriever(stage="c2", image_size=64).save(tmp_path / "saved")
    photos = photo_set(n=5)
    export_retriever(tmp_path / "saved", folder := tmp_path / "out", as_onnx=True, photos=photos)
    card = (folder / "README.md").read_text()
    code = next(part for part in card.split("```python\n") if "onnxruntime" in part).split("```")[0]
    (tmp_path / "describe.py").write_text(code)
    names = []
    for row in range(len(photos)):
        names.append(str(tmp_path / f"{row}.png"))
        with open(names[-1], "wb") as file:
            file.write(photos.source[row]["image"])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, tmp_path / "describe.py", *names], cwd=folder, check=True, env=environment)
    found = np.load(folder / "descriptors.npy")
    np.testing.assert_allclose(found, load(tmp_path / "saved").describe(photos), atol=BOUND)
    assert (
        "sret_jax" not in code and json.loads((folder / "config.json").read_text())["programs"]["onnx"]["file"] == FILE
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of any size with its program, and the card's as a file."""
    root = tmp_path_factory.mktemp("card")
    small_retriever(stage="c2", backbone="resnet18").save(root / "saved")
    export_retriever(root / "saved", root / "out", as_onnx=True, photos=photo_set(n=2))
    (root / "out" / "describe.py").write_text(snippet())
    return root / "out"


@pytest.mark.parametrize("name", [name for name in ACCEPTED if name != "Display P3.png"])  # as the card says
def test_the_program_of_the_card_opens_what_people_have(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(folder)
    opened = runpy.run_path("describe.py")["opened"]
    (tmp_path / name).write_bytes(ACCEPTED[name][0])
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / name)), decode_photo(ACCEPTED[name][0]))


@pytest.mark.parametrize("enlarge", [True, False])
@pytest.mark.parametrize("multiple", [1, 32])
@pytest.mark.parametrize(("filter", "rounding"), SHOWN)
def test_the_program_of_the_card_shows_photographs_as_they_were_in_training(
    folder, tmp_path, monkeypatch, filter, rounding, multiple, enlarge
):
    retriever = load(folder) if multiple == 1 else small_retriever(stage="c2")
    retriever = shown_as(retriever, filter, rounding, enlarge)
    shown = preprocessing(retriever.network, retriever.variables, retriever.config)
    (tmp_path / "config.json").write_text(json.dumps({"preprocessing": shown}))
    shutil.copy(folder / FILE, tmp_path)
    photos = photographs_of_all_shapes()
    for row in range(len(photos)):
        (tmp_path / f"{row}.png").write_bytes(photos.source[row]["image"])
    monkeypatch.chdir(tmp_path)
    prepared = runpy.run_path(str(folder / "describe.py"))["prepared"]
    for row, expected in enumerate(network_inputs(retriever, photos)):
        np.testing.assert_array_equal(prepared(f"{row}.png"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gem", "solar", "how"])
def test_published_networks_can_be_exported(tmp_path, name):
    """Of other weights, depth and size, but all else that says how photographs are shown."""
    config = runpy.run_path(str(REPOSITORY / "configs/published.py"))["get_config"](name)
    model = replace(config.model, backbone="resnet18", weights="none", whitening=False)
    small = small_retriever(image_size=96, **{field.name: getattr(model, field.name) for field in fields(model)})
    data = replace(config.data, image_size=96, bucket_ratios=())
    replace(small, config=replace(small.config, data=data, extract=config.extract)).save(tmp_path / "saved")
    about = export_retriever(tmp_path / "saved", tmp_path / "out", as_onnx=True, one_scale=True)
    assert about["programs"]["onnx"]["parity"]["largest difference"] <= BOUND


def test_what_has_no_rule_is_named(tmp_path):
    with forgotten():
        text = "@sret_jax.register('pooling', 'mine')\ndef part(x, mask): return jnp.cumsum(x, 1)[:, -1].max(1)\n"
        write_parts(tmp_path / "own.py", text)
        with pytest.raises(UserError, match="ONNX: .*pool.* computes 'cumsum', for which there is no rule"):
            to_onnx(small_retriever(stage="c2", pool="mine"))
