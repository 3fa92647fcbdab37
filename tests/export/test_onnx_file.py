"""ONNX Runtime computes the retriever's descriptors, or nothing is left behind."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sret_jax.config import AttentionConfig, RefinementConfig, SmoothingConfig
from sret_jax.errors import UserError
from sret_jax.export import onnx_file
from sret_jax.export.folder import export_retriever
from sret_jax.export.onnx_file import FILE, to_onnx
from sret_jax.export.parity import BOUND, measured, photographs_of_all_shapes
from sret_jax.retriever import load
from tests.support.exported import small_retriever
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
        pytest.param({"stage": "c3", "backbone": "resnet18", "attention": AttentionConfig(())}, 0, id="resnet"),
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


def test_the_photographs_have_all_shapes():
    sizes = photographs_of_all_shapes().sizes
    ratios = sizes[:, 0] / sizes[:, 1]
    assert len(sizes) == 20 and (ratios > 1).any() and (ratios < 1).any() and (ratios == 1).any()
    assert ratios.max() >= 8 and ratios.min() <= 1 / 6 and sizes.max(1).min() < 33


def test_what_differs_is_not_kept(tmp_path, monkeypatch):
    small_retriever(stage="c2").save(tmp_path / "saved")
    session = onnx_file.session
    monkeypatch.setattr(onnx_file, "session", lambda model: lambda *x: session(model)(*x) + np.float32(2e-4))
    with pytest.raises(UserError, match=r"model.onnx is not kept: .* differ by 2.0e-04, more than 1e-04"):
        export_retriever(tmp_path / "saved", tmp_path / "out", as_onnx=True)
    assert not (tmp_path / "out").exists()


def test_a_descriptor_that_is_no_number_is_the_worst():
    retriever = small_retriever(stage="c2")
    found = measured(retriever, lambda images, masks: np.full((len(images), 24), np.nan), photo_set(n=2))
    assert not found.difference <= BOUND


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


def test_what_has_no_rule_is_named():
    retriever = small_retriever(stage="c2", pool="rmac")
    with pytest.raises(UserError, match="config.model.pool='rmac'"):
        to_onnx(replace(retriever))
