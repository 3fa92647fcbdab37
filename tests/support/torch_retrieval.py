"""The networks of cirtorch, SOLAR, HOW and DIR in torch, with their parameter names: references of the parity tests.

Each takes normalised photographs; `forward` returns the descriptor, for HOW the local features and their strengths.
"""

import torch
from torch import nn
from torch.nn import functional as F

from tests.support.torch_resnet import random_resnet


def children(network):
    stem = [network.conv1, network.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return [*stem, network.layer1, network.layer2, network.layer3, network.layer4]


def l2n(x):
    return x / (x.norm(dim=1, keepdim=True) + 1e-6)


class GeM(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = nn.Parameter(torch.as_tensor(p))

    def forward(self, x):
        p = self.p.reshape(1, -1, 1, 1)
        return x.clamp(min=1e-6).pow(p).mean((2, 3), keepdim=True).pow(1 / p)[:, :, 0, 0]


class Cirtorch(nn.Module):
    def __init__(self, name="resnet18", p=(2.6,), features=None):
        super().__init__()
        network = random_resnet(name)
        self.features = nn.Sequential(*children(network)) if features is None else features(network)
        self.pool = GeM(p)
        self.whiten = nn.Linear(network.fc.in_features, network.fc.in_features)

    def forward(self, x):
        return l2n(self.whiten(l2n(self.pool(self.features(x)))))


class Attention(nn.Module):
    def __init__(self, channels, k):
        super().__init__()
        inside = channels // k

        def unit():
            norm = nn.BatchNorm2d(inside)
            for value, low, high in ((norm.running_mean, -0.5, 0.5), (norm.running_var, 0.8, 1.2), (norm.bias, -1, 1)):
                nn.init.uniform_(value, low, high)
            return nn.Sequential(nn.Conv2d(channels, inside, 1), norm, nn.ReLU())

        self.f, self.g, self.h = unit(), unit(), nn.Conv2d(channels, inside, 1)
        self.v = nn.Conv2d(inside, channels, 1)

    def forward(self, x):
        f, g, h = (y(x).flatten(2) for y in (self.f, self.g, self.h))
        weights = (f.transpose(1, 2) @ g * f.shape[1] ** -0.5).softmax(-1)
        z = (weights @ h.transpose(1, 2)).transpose(1, 2)
        return self.v(z.reshape(*z.shape[:2], *x.shape[2:])) + x


class SolarFeatures(nn.Module):
    def __init__(self, network):
        super().__init__()
        parts = children(network)
        self.conv1, self.conv2_x = nn.Sequential(*parts[:2]), nn.Sequential(*parts[2:5])
        self.conv3_x, self.conv4_x, self.conv5_x = parts[5:]
        channels = network.fc.in_features
        self.soa4, self.soa5 = Attention(channels // 2, 4), Attention(channels, 2)

    def forward(self, x):
        # The last part of the stem is in conv2_x: the ReLU comes after the first two.
        x = self.soa4(self.conv4_x(self.conv3_x(self.conv2_x(self.conv1(x)))))
        return self.soa5(self.conv5_x(x))


def solar(name="resnet18"):
    return Cirtorch(name, features=SolarFeatures)


class How(nn.Module):
    def __init__(self, name, skipped, dim=16):
        super().__init__()
        network = random_resnet(name)
        parts = children(network)
        self.features = nn.Sequential(*parts[: len(parts) - skipped])
        self.dim_reduction = nn.Conv2d(network.fc.in_features // 2**skipped, dim, 1)

    def forward(self, x):
        x = self.features(x)
        strength = (x.pow(2).sum(1) + 1e-10).sqrt()
        smoothed = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.dim_reduction(smoothed), strength


class Dir(nn.Module):
    def __init__(self, name="resnet18", dim=24):
        super().__init__()
        network = random_resnet(name)
        for child, module in network.named_children():
            self.add_module(child, module)
        self.adpool = GeM([2.4])
        self.fc = nn.Linear(network.fc.in_features, dim)

    def forward(self, x):
        parts = nn.Sequential(*children(self))
        return F.normalize(self.fc(self.adpool(parts(x))))
