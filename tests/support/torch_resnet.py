"""torchvision's ResNet in torch, with torchvision's parameter names: the reference of the parity tests."""

import torch
from torch import nn
from torch.nn import functional as F

LAYERS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}


class Block(nn.Module):
    def __init__(self, inputs, width, stride, bottleneck, floor=0.0, floor_inside=0.0):
        super().__init__()
        self.floor, self.floor_inside = floor, floor_inside
        outputs = width * 4 if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        channels = (inputs, width, width, outputs) if bottleneck else (inputs, width, width)
        for n, k in enumerate(kernels, 1):
            s = stride if n == (2 if bottleneck else 1) else 1
            setattr(self, f"conv{n}", nn.Conv2d(channels[n - 1], channels[n], k, s, k // 2, bias=False))
            setattr(self, f"bn{n}", nn.BatchNorm2d(channels[n]))
        self.count, self.downsample = len(kernels), None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for n in range(1, self.count + 1):
            y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
            y = y.clamp(min=self.floor_inside) if n < self.count else y
        return (y + (x if self.downsample is None else self.downsample(x))).clamp(min=self.floor)


class ResNet(nn.Module):
    """`forward` returns the maps c1 ... c5 and the logits.

    `floor`: SuperGlobal's ReLUP, instead of the ReLUs at the ends of the blocks of layer 1 to 3 and inside of layer 1.
    """

    def __init__(self, name, floor=0.0):
        super().__init__()
        bottleneck = name != "resnet18"
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for layer, repeats in enumerate(LAYERS[name], 1):
            width, blocks = 32 << layer, []
            for i in range(repeats):
                floors = floor if layer <= 3 else 0.0, floor if layer == 1 else 0.0
                blocks.append(Block(inputs, width, 2 if i == 0 and layer > 1 else 1, bottleneck, *floors))
                inputs = width * 4 if bottleneck else width
            setattr(self, f"layer{layer}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x):
        maps = {"c1": F.relu(self.bn1(self.conv1(x)))}
        x = F.max_pool2d(maps["c1"], 3, 2, 1)
        for layer in range(1, 5):
            maps[f"c{layer + 1}"] = x = getattr(self, f"layer{layer}")(x)
        return maps, self.fc(x.mean((2, 3)))


def random_resnet(name, seed=0, floor=0.0):
    """In evaluation mode, with random BatchNorm parameters and statistics that keep the maps' scale near 1."""
    torch.manual_seed(seed)
    network = ResNet(name, floor).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network
