"""The card of an exported network: what it is, how it was made, how good it is, how to use it. Markdown."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from sret_jax.config import Config, differences, to_dict
from sret_jax.models.weights.shipped import FOLDER, shipped_names
from sret_jax.models.weights.trained import PARAMETERS, step_folder, used_step
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import DamagedError, read_sealed
from sret_jax.storage.workdir import RECORD, UNTRAINED

OF_THE_NETWORK = ("seed", "data.", "mining.", "model.", "train.", "whitening.", "extract.")  # settings that are listed
NEVER = ("data.cache_dir", "data.threads", "model.weights")
COUNTS = ("step", "steps", "photos", "instances", "held_out")
OF_PHOTOGRAPHS = ("per_query", "per_instance")  # metrics that name what was measured on
TAG = re.compile(rf"({UNTRAINED}|-step-\d+)$")  # behind the name of an evaluation
SNIPPET = "describe_with_onnx.py"
Facts = dict[str, Any]


def made_by(source: str | Path, retriever: Retriever) -> Facts:
    """What is known of how a network came about, without paths: JSON values.

    weights   the name of weights that come with the package
    trained   {"step", "steps", "photos", "instances", "held_out", "data"}, where `source` is a run or one step of it;
              with instances held out, the step is the one that validation chose, 0 for the network before training
    measured  [{"benchmark", "photos", "metrics"}] of the evaluations of this very retriever

    A folder that was exported before says this of itself.
    """
    if str(source) in shipped_names() and (isinstance(source, str) or not source.exists()):
        return {"weights": str(source)}
    folder = Path(source).expanduser()
    if (folder / PARAMETERS).is_file():
        return _of_form(_json(folder / "config.json").get("made_by"))
    return _of_form(_of_run(step_folder(folder).resolve(), retriever))


def _of_run(step: Path, retriever: Retriever) -> Facts:
    record = _json(step / RECORD)
    config = record["config"]
    names = [Path(root.strip()).name for root in config["data"]["root"].split(",") if root.strip()]
    trained = record | {"step": used_step(record), "steps": config["train"]["steps"], "data": names}
    measured = {}
    for path in sorted((step.parents[1] / "eval").glob("*/results.json")):
        found, name = _json(path), TAG.sub("", path.parent.name)
        if found.get("retriever") == retriever.fingerprint:  # the network may have been trained on since
            measured[name] = found | {"benchmark": name}
    return {"trained": trained, "measured": list(measured.values())}


def _of_form(found: Any) -> Facts:
    """What of these facts has the form of `made_by`: nothing else gets onto a card, whoever wrote it."""
    if not isinstance(found, dict):
        return {}
    if isinstance(name := found.get("weights"), str) and name in shipped_names():
        return {"weights": name}
    facts: Facts = {}
    trained, measured = found.get("trained"), found.get("measured")
    if isinstance(trained, dict):
        counts = {name: x for name in COUNTS if isinstance(x := trained.get(name), int)}
        if {"step", "steps"} <= counts.keys():
            names = trained.get("data")
            facts["trained"] = counts | {"data": [_words(name) for name in names] if isinstance(names, list) else []}
    if isinstance(measured, list):
        listed = [_measured(one) for one in measured if isinstance(one, dict)]
        facts |= {"measured": listed} if listed else {}
    return facts


def _measured(found: Facts) -> Facts:
    photos = found.get("photos")
    counted = {"photos": photos} if isinstance(photos, int) else {}
    return {"benchmark": _words(found.get("benchmark"))} | counted | {"metrics": _numbers_in(found.get("metrics"))}


def _numbers_in(metrics: Any) -> Facts:
    """The metrics that are numbers, and of sets of photographs the numbers of each."""
    found: Facts = {}
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if isinstance(value, dict) and name not in OF_PHOTOGRAPHS:
            found[_words(name)] = _numbers_in({own: x for own, x in value.items() if not isinstance(x, dict)})
        elif isinstance(value, int | float):
            found[_words(name)] = value
    return found


def _words(text: Any) -> str:
    """A few words that Markdown takes for words."""
    return "".join(c if c.isprintable() and c not in "|<>[]`" else "-" for c in str(text))[:100]


def _json(path: Path) -> Facts:
    try:
        return read_sealed(path)
    except (OSError, DamagedError):
        return {}


def card(retriever: Retriever, name: str, about: Facts, shown: Facts) -> str:
    """The text of README.md.

    Args:
      name: of the network: the folder's.
      about: what config.json says beside the config: "made_by" and "programs".
      shown: how photographs are shown to it, as `extraction.preprocessing` says.
    """
    config, programs = retriever.config, about.get("programs", {})
    parts = [_front_matter(config), _what(retriever, name), _how_to_load(config, name, programs, shown)]
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


def _how_to_load(config: Config, name: str, programs: Facts, shown: Facts) -> str:
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
            f"descriptor was off by more than {parity['largest difference']:.1e}{_compared(config)}.\n\n"
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


def _compared(config: Config) -> str:
    """What the numbers of the ONNX file were compared with, where that is not the network as it is."""
    other = config.model.dtype != "float32"
    return (
        f" from the same parameters in float32, in which it computes; sret_jax computes in {config.model.dtype}" * other
    )


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
        lines.append(_trained(trained))
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
        lines += [f"| {own['benchmark']} | {own.get('photos', '?')} | {_numbers(own['metrics'])} |" for own in measured]
    return "\n".join(lines)


def _trained(trained: Facts) -> str:
    held_out, step, steps = trained.get("held_out"), trained["step"], trained["steps"]
    counts = f"{trained.get('photos', '?')} photographs of {trained.get('instances', '?')} instances"
    if held_out and not step:
        return (
            f"The network as it was before training: of {steps} steps on {counts} none was better on {held_out} "
            "held-out instances by more than chance."
        )
    chosen = f", the best on {held_out} held-out instances" if held_out else ""
    return f"Step {step} of {steps}{chosen}, {_listed(trained.get('data', []))}: {counts}."


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
