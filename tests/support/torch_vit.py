"""DINOv2's vision transformer in torch, and timm's form of it, with their names: references of the parity tests."""

import torch
from torch import nn
from torch.nn import functional as F

SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
PATCH, GRID = 14, 37


class Gamma(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))


class Linears(nn.Module):
    def __init__(self, **shapes):
        super().__init__()
        for name, (inputs, outputs) in shapes.items():
            setattr(self, name, nn.Linear(inputs, outputs))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Linears(qkv=(width, 3 * width), proj=(width, width))
        self.mlp = Linears(fc1=(width, 4 * width), fc2=(4 * width, width))
        self.ls1, self.ls2 = Gamma(width), Gamma(width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) * (c // self.heads) ** -0.5).softmax(-1)
        x = x + self.ls1.gamma * self.attn.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.ls2.gamma * self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x)))), k.transpose(1, 2).flatten(2)


class Patches(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)


class VisionTransformer(nn.Module):
    """`forward` returns the maps c4, last and keys, and the class token."""

    def __init__(self, size, registers):
        super().__init__()
        width, depth, heads = SIZES[size]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID * GRID, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, 4, width)) if registers else None
        self.patch_embed = Patches(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def positions(self, h, w):
        """As the authors' code interpolates them: without registers by a factor with 0.1 added to the size."""
        if self.register_tokens is None and (h, w) == (GRID, GRID):
            return self.pos_embed[:, 1:]
        stored = self.pos_embed[:, 1:].reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
        if self.register_tokens is None:
            options = {"scale_factor": ((h + 0.1) / GRID, (w + 0.1) / GRID)}
        else:
            options = {"size": (h, w), "antialias": True}
        return F.interpolate(stored, mode="bicubic", **options).flatten(2).transpose(1, 2)

    def front(self):
        """What comes before the patches: the class token with its position, and the registers."""
        first = self.cls_token + self.pos_embed[:, :1]
        return first if self.register_tokens is None else torch.cat([first, self.register_tokens], 1)

    def forward(self, x):
        h, w = x.shape[2] // PATCH, x.shape[3] // PATCH
        tokens = self.patch_embed.proj(x).flatten(2).transpose(1, 2) + self.positions(h, w)
        front = self.front().expand(len(x), -1, -1)
        x, maps = torch.cat([front, tokens], 1), {}

        def as_map(tokens):
            return tokens[:, front.shape[1] :].reshape(len(tokens), h, w, -1)

        for i, block in enumerate(self.blocks, 1):
            x, keys = block(x)
            if i == len(self.blocks) // 2:
                maps["c4"] = as_map(self.norm(x))
        return maps | {"last": as_map(self.norm(x)), "keys": as_map(keys), "cls": self.norm(x)[:, :1, None]}


class TimmVisionTransformer(VisionTransformer):
    """timm resamples with antialiasing always, and where there are registers it adds no position to the class token."""

    def __init__(self, size, registers):
        super().__init__(size, registers)
        del self.mask_token, self.register_tokens
        width = SIZES[size][0]
        self.reg_token = nn.Parameter(torch.zeros(1, 4, width)) if registers else None
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID * GRID + (not registers), width))

    def positions(self, h, w):
        grid = self.pos_embed[:, -GRID * GRID :]
        if h == w == GRID:
            return grid
        grid = grid.reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
        return F.interpolate(grid, size=(h, w), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)

    def front(self):
        if self.reg_token is None:
            return self.cls_token + self.pos_embed[:, :1]
        return torch.cat([self.cls_token, self.reg_token], 1)


def random_vit(size="s", registers=False, seed=0, kind=VisionTransformer):
    """With weights as spread as those of a trained network: every part of it shows in the result."""
    torch.manual_seed(seed)
    network = kind(size, registers).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("gamma") or "norm" in name and name.endswith("weight"):
            nn.init.uniform_(parameter, 0.2, 1.0)
        else:
            nn.init.normal_(parameter, std=0.5 if "_token" in name or name == "pos_embed" else 0.05)
    return network
