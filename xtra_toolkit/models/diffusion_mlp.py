"""DiffusionMLP: the denoising network of MAR (arXiv 2406.11838; LTH14/mar at fe470ac).

Shape legend: ... any leading dimensions, Z width of the condition, V values, W hidden width.
"""

import math

import torch
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

FREQUENCIES = 256  # width of the sinusoidal embedding of a timestep


class DiffusionMLP(BaseModule):
    """Predict from noisy values the noise and the variance, given a condition and a timestep.

    Each residual block is modulated by the sum of the embedded timestep and the embedded condition
    (AdaLN). The outputs of new weights are 0.

    Args:
        condition: Width of the condition, Z.
        values: Number of values that are denoised, V.
        width: Width of the hidden layers, W.
        depth: Number of residual blocks.
    """

    def __init__(self, condition: int, values: int, width: int, depth: int):
        super().__init__()
        self.time_embed = nn.Sequential(
            nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.cond_embed = nn.Linear(condition, width)
        self.input_proj = nn.Linear(values, width)
        self.res_blocks = ModuleList(ResBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * values)

    def init_weights(self) -> None:
        """Initialise as MAR does: xavier uniform, and zero for modulations and outputs."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer in (self.time_embed[0], self.time_embed[2]):
            nn.init.normal_(layer.weight, std=0.02)
        zero = [layer.modulation[1] for layer in (*self.res_blocks, self.final_layer)]
        for layer in (*zero, self.final_layer.linear):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Return the predicted noise and the predicted variance, (..., 2 * V).

        Args:
            x: (..., V) noisy values.
            timestep: (...) whole numbers.
            condition: (..., Z).
        """
        dtype = self.input_proj.weight.dtype
        time = self.time_embed(embed_timestep(timestep).to(dtype))
        y = time + self.cond_embed(condition)
        x = self.input_proj(x.to(dtype))
        for block in self.res_blocks:
            x = block(x, y)
        return self.final_layer(x, y)


class ResBlock(nn.Module):
    """Add to (..., W) an MLP of it, which is normalised, shifted, scaled and gated.

    Args:
        width: W.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (..., W) from ``x`` and what modulates it, both (..., W)."""
        shift, scale, gate = self.modulation(y).chunk(3, dim=-1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class FinalLayer(nn.Module):
    """Map (..., W), normalised, shifted and scaled, to the outputs.

    Args:
        width: W.
        out: Number of outputs.
    """

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, out)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (..., out) from ``x`` and what modulates it, both (..., W)."""
        shift, scale = self.modulation(y).chunk(2, dim=-1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


def embed_timestep(timestep: Tensor) -> Tensor:
    """Return cosines and sines of timesteps (...), as (..., 256) float32."""
    half = FREQUENCIES // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timestep.device)
    angle = timestep[..., None].float() * torch.exp(-math.log(10_000) * exponent / half)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
