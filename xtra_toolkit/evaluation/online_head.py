"""Train a linear head during pretraining, on features without gradients.

Shape legend: B images of a batch, D width, C classes.
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn

NONE = -1  # label of an image without a label


class OnlineHead(nn.Module):
    """A linear layer behind a BatchNorm without parameters (eps 1e-6), with its own optimizer.

    The layers are those of ProbeSweep. The optimizer is AdamW without weight decay at a constant
    learning rate, because the features change as long as the encoder is trained. Features are
    normalised, so the rate depends neither on their scale nor on the batch size. The weights start
    at zero, so no random numbers are drawn.

    Args:
        width: D.
        classes: C.
        lr: Learning rate. Default: 0.08 / sqrt(D), which is 3e-3 for 768 values and 1e-2 for 64.
    """

    def __init__(self, width: int, classes: int, lr: float | None = None):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.linear = nn.utils.skip_init(nn.Linear, width, classes)
        nn.init.zeros_(self.linear.weight), nn.init.zeros_(self.linear.bias)
        lr = lr or 0.08 * width**-0.5
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=0.0)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits (B, C) of features (B, D)."""
        return self.linear(self.norm(features))

    @torch.enable_grad()
    def learn(self, features: Tensor, labels: Tensor) -> Tensor:
        """Take one step on the joint batch of all processes, which thereby keep the same head.

        If features or the loss are not finite, the head and its optimizer are left unchanged and
        zeros are returned. This is decided on the device, without synchronising the host.

        Args:
            features: (B, D) of this process, float32.
            labels: (B,), NONE for images that do not count.

        Returns:
            (3,) number of correctly classified images and sum of their losses, both before this
            step, and number of images that count.
        """
        if get_world_size() > 1:
            features, labels = (torch.cat(all_gather(part)) for part in (features, labels))
        self.train(len(features) > 1)  # one image has no variance: use running statistics
        before = [value.clone() for value in self._state()]
        logits, count = self(features), (labels != NONE).sum()
        loss = F.cross_entropy(logits, labels, ignore_index=NONE, reduction="sum")
        self.optimizer.zero_grad()
        (loss / count.clamp(min=1)).backward()
        self.optimizer.step()
        finite = features.isfinite().all() & loss.detach().isfinite()
        with torch.no_grad():
            for value, old in zip_longest(self._state(), before, fillvalue=0):  # a new state was 0
                value.copy_(torch.where(finite, value, old))
        correct = (logits.argmax(1) == labels).sum()
        sums = torch.stack([correct.float(), loss.detach(), count.float()])
        return torch.where(finite, sums, 0)

    def _state(self) -> list[Tensor]:
        """Return all tensors that a step changes; the optimizer has none before its first step."""
        averages = (v for state in self.optimizer.state.values() for v in state.values())
        return [*self.buffers(), *self.parameters(), *averages]

    @torch.no_grad()
    def classify(self, features: Tensor, like: Tensor | None = None) -> Tensor:
        """Classify features (B, D); return classes (B,).

        Args:
            features: (B, D).
            like: (N, D) features whose statistics normalise ``features``. Default: the running
                statistics of training, which lag behind if the encoder learns fast.
        """
        norm = self.norm
        mean, var = norm.running_mean, norm.running_var
        if like is not None:
            var, mean = torch.var_mean(like, 0)
        return self.linear(F.batch_norm(features, mean, var, eps=norm.eps)).argmax(1)

    def saved(self) -> dict:
        """Return the state for a checkpoint, as tensors and plain values."""
        return dict(head=self.state_dict(), optimizer=self.optimizer.state_dict())

    def resume(self, saved: dict) -> bool:
        """Load a state of :meth:`saved`; return False if its features or classes are different."""
        own, other = self.state_dict(), saved["head"]
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in other.items()}:
            return False
        self.load_state_dict(other)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr  # keep the rate of the config
        return True


def labels_of(samples: Sequence | None) -> Tensor:
    """Return labels (B,) of data samples on the CPU; NONE for samples without exactly one."""
    labels = [None if sample is None else sample.get("gt_label") for sample in samples or ()]
    single = [NONE if label is None or len(label) != 1 else int(label) for label in labels]
    return torch.tensor(single, dtype=torch.long)


def within(labels: Tensor, classes: int) -> Tensor:
    """Replace labels outside of 0 to ``classes`` - 1 by NONE."""
    return labels.masked_fill((labels < 0) | (labels >= classes), NONE)
