"""Networks of timm and transformers with random weights, as references of the parity tests.

timm imports torchvision, whose operators have no kernels beside a wheel of torch for the CPU alone: they are declared
here, and never called.
"""

import contextlib
import os

import numpy as np
import torch
from safetensors.torch import save_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")
with contextlib.suppress(RuntimeError):  # where they have kernels they are declared already
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    _LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def timm_network(name, **changes):
    import timm

    return drawn(timm.create_model(name, **changes))


def drawn(network, seed=0):
    """With weights as spread as those of a trained network: every part of it, biases too, shows in the result."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            last, wide = name.split(".")[-1], parameter.ndim > 1 and not _is_token(name)
            if "gamma" in name or "lambda1" in name:
                parameter.uniform_(0.3, 1.0)
            elif "norm" in name and last == "weight" or name.endswith(("stem.1.weight", "downsample.0.weight")):
                parameter.uniform_(0.5, 1.5)
            elif wide:
                parameter.normal_(std=1.2 * (parameter[0].numel() ** -0.5))
            else:
                parameter.normal_(std=0.5 if _is_token(name) else 0.2)
    return network.eval()


def _is_token(name):
    return any(part in name for part in ("token", "pos", "latent", "probe", "class_embedding"))


def saved(state, path):
    """The state dict in a file, of the kind that the name says."""
    state = {name: value.detach().clone().contiguous() for name, value in state.items()}
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


def network_input(images, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225)):
    """What a torch network is given of photographs `[b h w 3]`."""
    x = torch.tensor(np.asarray(images)).double() / 255
    return ((x - torch.tensor(mean)) / torch.tensor(deviation)).float().movedim(3, 1)
