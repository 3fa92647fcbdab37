"""The card of an exported network: what it is, how it was made, how good it is, how to use it. Markdown."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from sret_jax.config import Config, differences, to_dict
from sret_jax.models.weights.shipped import FOLDER, shipped_names
from sret_jax.retriever import Retriever
from sret_jax.storage.workdir import UNTRAINED, Workdir, is_checkpoint

OF_THE_NETWORK = ("seed", "data.", "mining.", "model.", "train.", "whitening.", "extract.")  # settings that are listed
NEVER = ("data.cache_dir", "data.threads", "model.weights")
SNIPPET = "describe_with_onnx.py"
Facts = dict[str, Any]


def made_by(source: str | Path) -> Facts:
    """What is known of how a network came about, without paths: JSON values.

    weights   the name of weights that come with the package
    trained   {"step", "steps", "photos", "instances", "held_out", "data"}, where `source` is a run or one step of it
    measured  [{"benchmark", "photos", "metrics"}] of its evaluations
    """
    if str(source) in shipped_names() and (isinstance(source, str) or not source.exists()):
        return {"weights": str(source)}
    folder = Path(source).expanduser()
    if is_checkpoint(folder):
        return _of_run(folder.resolve().parents[1], int(folder.name), f"-step-{folder.name}")
    if (folder / "checkpoints").is_dir():
        steps = [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()]
        return _of_run(folder, max(steps, default=0), "")
    about = _json(folder / "config.json")
    return dict(about.get("made_by") or {})  # exported before


def _of_run(workdir: Path, step: int, tag: str) -> Facts:
    about = _json(Workdir(workdir).config)
    config = about.get("config") or {}
    counts = {name: about[name] for name in ("photos", "instances", "held_out") if name in about}
    roots = str(config.get("data", {}).get("root", "")).split(",")
    names = [Path(root.strip()).name for root in roots if root.strip()]
    steps = config.get("train", {}).get("steps", step)
    measured = []
    for path in sorted((workdir / "eval").glob("*/results.json")):
        own = path.parent.name
        if own.endswith(tag) if tag else not own.endswith(UNTRAINED) and "-step-" not in own:
            found = _json(path)
            metrics = {name: value for name, value in found.get("metrics", {}).items() if name != "per_query"}
            measured.append({"benchmark": own.removesuffix(tag), "photos": found.get("photos"), "metrics": metrics})
    trained = {"step": step, "steps": steps} | counts | {"data": names}
    return {"trained": trained, "measured": measured} if measured else {"trained": trained}


def _json(path: Path) -> Facts:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def card(retriever: Retriever, name: str, about: Facts, shown: Facts) -> str:
    """The text of README.md.

    Args:
      name: of the network: the folder's.
      about: what config.json says beside the config: "made_by" and "programs".
      shown: how photographs are shown to it, as `extraction.preprocessing` says.
    """
    config, programs = retriever.config, about.get("programs", {})
    parts = [_front_matter(config), _what(retriever, name), _how_to_load(name, programs, shown)]
    parts.append(_made(config, about.get("made_by", {})))
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(config: Config) -> str:
    tags = ["image-retrieval", "instance-retrieval", "jax", config.model.backbone.replace("_", "-")]
    return "\n".join(
        [
            "---",
            "library_name: sret_jax",
            "pipeline_tag: image-feature-extraction",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "# license: say here what others may do with these weights, as `license: apache-2.0`",
            "---",
        ]
    )


def _what(retriever: Retriever, name: str) -> str:
    model, data = retriever.config.model, retriever.config.data
    layers = [
        ("learnable smoothing", model.smoothing.enabled),
        (f"graph refinement ({model.refinement.form})", model.refinement.enabled),
        ("second-order attention", bool(model.attention.stages)),
        (f"pooling: {model.pool}", True),
        ("a whitening layer", model.whitening),
        ("a whitening learned after training", retriever.whitening is not None),
    ]
    listed = ", ".join(what for what, there in layers if there)
    return (
        f"# {name}\n\nOne vector for each photograph, for finding other photographs of the same object by their "
        f"cosine.\n\n| | |\n|---|---|\n| backbone | {model.backbone}, stage {model.stage} |\n| on it | {listed} |\n"
        f"| descriptor | {retriever.descriptor_length} numbers, float32, of unit length |\n"
        f"| photographs | longest side {data.image_size} px, of any shape |"
    )


def _how_to_load(name: str, programs: Facts, shown: Facts) -> str:
    text = (
        "## How to use it\n\n```python\nimport sret_jax\n\n"
        f'retriever = sret_jax.load("{name}")  # this folder\n'
        'x = retriever.describe(sret_jax.open_photos("photos/"))\n```'
    )
    if "onnx" in programs:
        parity = programs["onnx"]["parity"]
        text += (
            "\n\n### Without sret_jax, by ONNX Runtime\n\n"
            f"`{programs['onnx']['file']}` takes photographs of any number and size. On {parity['photographs']} "
            f"photographs of all shapes, alone and in padded batches of {parity['batches'][-1]}, no number of a "
            f"descriptor was off by more than {parity['largest difference']:.1e}.\n\n"
            f"```python\n{snippet()}```\n\nPhotographs whose colours are not sRGB have to be converted first, as "
            "`ImageCms.profileToProfile` does."
        )
        text += "\n\n" + _preprocessing(shown)
    if "stablehlo" in programs:
        text += (
            "\n\n### Without sret_jax, by JAX\n\n"
            f"`{programs['stablehlo']['file']}` runs on {', '.join(programs['stablehlo']['platforms'])}:\n\n"
            "```python\nfrom jax import export\n\n"
            f'program = export.deserialize(bytearray(open("{programs["stablehlo"]["file"]}", "rb").read()))\n'
            'x = program.call(images, mask)  # as "programs" in config.json says\n```'
        )
    return text


def _preprocessing(shown: Facts) -> str:
    rows = [f"| {name} | {_value(value)} |" for name, value in shown.items()]
    return "\n".join(["What is done to a photograph, as `config.json` has it:", "", "| | |", "|---|---|", *rows])


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def snippet() -> str:
    """The program that describes photographs with `model.onnx`, Pillow and ONNX Runtime alone."""
    return (files("sret_jax.export") / SNIPPET).read_text()


def _made(config: Config, facts: Facts) -> str:
    if weights := facts.get("weights"):
        text = (FOLDER / f"{weights}.md").read_text()
        start = text.find("## What it was trained on")
        return f"These are the weights `{weights}` that come with sret_jax.\n\n{text[start:].strip()}"
    lines = ["## How it was made", ""]
    if trained := facts.get("trained"):
        lines.append(
            f"Step {trained['step']} of {trained['steps']}, {_listed(trained.get('data', []))}: "
            f"{trained.get('photos', '?')} photographs of {trained.get('instances', '?')} instances."
        )
    else:
        lines.append("Its weights were not trained by this package further than its settings say.")
    changed = differences(to_dict(Config()), to_dict(config))
    settings = [
        f"    {field} = {value!r}"
        for field, _, value in changed
        if field.startswith(OF_THE_NETWORK) and field not in NEVER
    ]
    lines += ["", "The settings that differ from the defaults:", "", *settings] if settings else []
    if measured := facts.get("measured"):
        lines += ["", "## How good it is", "", "| benchmark | photographs | measured |", "|---|---|---|"]
        lines += [f"| {own['benchmark']} | {own['photos']} | {_numbers(own['metrics'])} |" for own in measured]
    return "\n".join(lines)


def _listed(names: list[str]) -> str:
    return f"trained on {', '.join(names)}" if names else "trained"


def _numbers(metrics: Facts) -> str:
    """Every number of a result, those of its sets with the set's name."""
    found = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            found += [f"{name} {own} {x:.2f}" for own, x in value.items() if isinstance(x, float)]
        elif isinstance(value, float):
            found.append(f"{name} {value:.2f}")
    return ", ".join(found)
