"""XTRA (arXiv 2411.15648) with a dense attention mask: the baseline of bench_step.py.

One file of plain PyTorch: every position goes through every layer, and attention reads a boolean
mask. Two layout choices are for speed. Tokens stand in sequence order, a block's tokens next to
each other, so that concatenating a block is a reshape. Pixels are gathered once, for the patch
embedding and the targets alike.

Shapes:
    B: images of a batch            K: blocks of an image
    t: tokens of a block            N: tokens of an image, K * t
    d: width                        V: values of a block's pixels, t * channels * patch**2
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

EPS = 1e-6


class Layer(nn.Module):
    """Run a pre-norm transformer layer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # x: (B, N, d), mask: (N, N)
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each (B, heads, N, d / heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """Run learned positions, layers and a final norm. Positions are stored in sequence order."""

    def __init__(self, tokens: int, width: int, depth: int, heads: int):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(tokens, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.pos_embed
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


def init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DenseXTRA(nn.Module):
    """Square images cut into square blocks; the outputs of a block predict the next block.

    The defaults are XTRA-B/16.

    Args:
        image: pixels along each side of the image.
        patch: pixels along each side of a token.
        block: tokens along each side of a block.
        width, depth, heads: the encoder's.
        projection_hidden: hidden width of the MLP between encoder and decoder.
        decoder_width, decoder_depth, decoder_heads: the decoder's.
        head_hidden: hidden width of the MLP that predicts the pixels.
        channels: of the image.
    """

    def __init__(
        self,
        image: int = 256,
        patch: int = 16,
        block: int = 4,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        projection_hidden: int = 4096,
        decoder_width: int = 768,
        decoder_depth: int = 8,
        decoder_heads: int = 6,
        head_hidden: int = 6144,
        channels: int = 3,
    ):
        super().__init__()
        if image % (patch * block):
            raise ValueError(
                f"blocks of {block}×{block} tokens of {patch} px do not tile an image of {image} px"
            )
        self.patch, self.block, self.block_tokens = patch, block, block**2
        self.grid = image // patch
        tokens, pixels = self.grid**2, channels * patch**2

        self.patch_embed = nn.Linear(pixels, width)
        self.encoder = Transformer(tokens, width, depth, heads)
        self.projection = nn.Sequential(
            nn.Linear(width, projection_hidden),
            nn.GELU(),
            nn.Linear(projection_hidden, decoder_width, bias=False),
        )
        self.decoder = Transformer(tokens, decoder_width, decoder_depth, decoder_heads)
        self.head = nn.Sequential(
            nn.Linear(self.block_tokens * decoder_width, head_hidden),
            nn.GELU(),
            nn.Linear(head_hidden, self.block_tokens * pixels),
        )
        self.apply(init_linear)
        nn.init.kaiming_normal_(self.patch_embed.weight, nonlinearity="relu")

        block_of = torch.arange(tokens) // self.block_tokens
        mask = block_of[:, None] >= block_of  # True: query (row) may attend to key (column)
        self.register_buffer("mask", mask, persistent=False)

    def sequence_order(self) -> Tensor:
        """Return the raster number of each sequence position, (N,)."""
        raster = torch.arange(self.grid**2).view(self.grid, self.grid)
        return rearrange(raster, "(R r) (C s) -> (R C r s)", r=self.block, s=self.block)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the pixels of each token, in sequence order, (B, N, c p q)."""
        return rearrange(
            images,
            "b c (R r p) (C s q) -> b (R C r s) (c p q)",
            r=self.block,
            s=self.block,
            p=self.patch,
            q=self.patch,
        )

    def encode(self, tokens: Tensor) -> Tensor:  # (B, N, c p q) -> (B, N, d)
        return self.encoder(self.patch_embed(tokens), self.mask)

    def decode(self, encoded: Tensor) -> Tensor:  # (B, N, encoder's d) -> (B, N, decoder's d)
        return self.decoder(self.projection(encoded), self.mask)

    def predict(self, decoded: Tensor) -> Tensor:
        """Predict blocks 1 to K-1 from the outputs of the block before each, (B, K-1, V)."""
        used = decoded[:, : -self.block_tokens].unflatten(1, (-1, self.block_tokens)).flatten(2)
        return self.head(used.contiguous())

    @torch.no_grad()
    def targets(self, tokens: Tensor) -> Tensor:
        """Return the pixels of blocks 1 to K-1, each block normalised, (B, K-1, V)."""
        later = tokens[:, self.block_tokens :].unflatten(1, (-1, self.block_tokens)).flatten(2)
        var, mean = torch.var_mean(later, dim=-1, keepdim=True)
        return (later - mean) * (var + EPS).rsqrt()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the loss of normalised images (B, c, image, image)."""
        tokens = self.tokens(images)
        predictions = self.predict(self.decode(self.encode(tokens)))
        return F.mse_loss(predictions.float(), self.targets(tokens))
