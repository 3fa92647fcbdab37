"""The settings that `choices.py` compares: which fields differ, and from what."""

from typing import Any

Setting = tuple[str, str]  # group and name
S, R = "model.smoothing", "model.refinement"
# Group: {setting: fields that differ from the config}. `rewhiten` is no field: it learns the whitening anew at the end.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "rows": {
        "GeM": {},
        "smoothing": {f"{S}.enabled": True},
        "refinement": {f"{R}.enabled": True},
        "smoothing + refinement": {f"{S}.enabled": True, f"{R}.enabled": True},
    },
    "smoothing": {
        name: {f"{S}.enabled": True} | fields
        for name, fields in {
            "window 5": {f"{S}.window": 5},
            "window 7": {f"{S}.window": 7},
            "d = 4": {f"{S}.kernel_dim": 4},
            "d = 64": {f"{S}.kernel_dim": 64},
            "2 iterations": {f"{S}.iterations": 2},
            "starts as the average": {f"{S}.start": "average"},
            "a not learned": {f"{S}.bandwidth": False},
            "c not learned": {f"{S}.confidence": False},
            "learning rate x 4": {"train.learning_rate": 4.0},
        }.items()
    },
    "graph": {
        name: {f"{R}.enabled": True} | fields
        for name, fields in {
            "16 nodes": {f"{R}.nodes": 16},
            "64 nodes": {f"{R}.nodes": 64},
            "2 neighbours": {f"{R}.neighbours": 2},
            "8 neighbours": {f"{R}.neighbours": 8},
            "1 block": {f"{R}.blocks": 1},
            "3 blocks": {f"{R}.blocks": 3},
            "edges in space only": {f"{R}.edges": "space"},
            "edges of similarity only": {f"{R}.edges": "similarity"},
            "nodes by attention": {f"{R}.strength": "attention"},
            "learning rate x 4": {"train.learning_rate": 4.0},
        }.items()
    },
    "rates": {
        "refinement, learning rate / 4": {f"{R}.enabled": True, "train.learning_rate": 0.25},
        "refinement, learning rate / 16": {f"{R}.enabled": True, "train.learning_rate": 0.0625},
        "refinement, 64 nodes, learning rate / 4": {
            f"{R}.enabled": True,
            f"{R}.nodes": 64,
            "train.learning_rate": 0.25,
        },
        "both, learning rate / 4": {
            f"{S}.enabled": True,
            f"{R}.enabled": True,
            "train.learning_rate": 0.25,
        },
    },
    "training": {
        f"{row}, {name}": parts | fields
        for row, parts in {"GeM": {}, "both": {f"{S}.enabled": True, f"{R}.enabled": True}}.items()
        for name, fields in {
            "4 x steps": {"train.steps": 4.0},
            "whitening x 100": {"train.whitening_lr": 100.0},
            "whitening learned again": {"rewhiten": True},
        }.items()
    },
}
# What the settings of a group change; of the other groups it is what their names begin with.
BASES = {"rows": "GeM", "smoothing": "smoothing", "graph": "refinement"}


def base_of(group: str, name: str) -> Setting:
    """The row that a setting changes."""
    first = name.partition(",")[0]
    return "rows", BASES.get(group) or {"both": "smoothing + refinement"}.get(first, first)


def stem_of(groups: list[str]) -> str:
    """Of the files of these groups."""
    if set(groups) == set(GROUPS):
        return "choices"
    return "_".join(["choices", *([group for group in groups if group != "rows"] or groups)])
