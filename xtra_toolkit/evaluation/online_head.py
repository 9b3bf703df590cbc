"""A linear head that learns beside a pretraining, from features that carry no gradient.

Shape legend: B images of a batch, D width, C classes.
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn

NONE = -1  # stands for the label of an image that has none
COUNTED = 100_000  # images of which all labels are read, where classes have no names


class OnlineHead(nn.Module):
    """BatchNorm without parameters (eps 1e-6) and a linear layer, as ProbeSweep; its optimizer.

    AdamW without weight decay at a constant rate, for the features move as long as the encoder is
    trained; 0.08 / sqrt(D), so 3e-3 for 768 values and 1e-2 for 64. Features are normalised, so
    it depends neither on their scale nor on the batch. The head starts at zero: no generator is
    asked.

    Args:
        width, classes: D and C.
        lr: another rate.
    """

    def __init__(self, width: int, classes: int, lr: float | None = None):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.linear = nn.utils.skip_init(nn.Linear, width, classes)
        nn.init.zeros_(self.linear.weight), nn.init.zeros_(self.linear.bias)
        lr = lr or 0.08 * width**-0.5
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=0.0)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) to logits (B, C)."""
        return self.linear(self.norm(features))

    @torch.enable_grad()
    def learn(self, features: Tensor, labels: Tensor) -> Tensor:
        """One step on the joint batch of all processes, which so keep the same head.

        Features or a loss that are not finite leave the head and its optimizer as they were, and
        count nothing. The host does not wait to hear of it.

        Args:
            features: (B, D) of this process, float32.
            labels: (B,), NONE where an image does not count.

        Returns:
            (3,): how many are classified rightly and the sum of their losses, both before this
            step, and how many count.
        """
        if get_world_size() > 1:
            features, labels = (torch.cat(all_gather(part)) for part in (features, labels))
        self.train(len(features) > 1)  # one image has no variance: normalise by what was seen
        before = [value.clone() for value in self._state()]
        logits, count = self(features), (labels != NONE).sum()
        loss = F.cross_entropy(logits, labels, ignore_index=NONE, reduction="sum")
        self.optimizer.zero_grad()
        (loss / count.clamp(min=1)).backward()
        self.optimizer.step()
        finite = features.isfinite().all() & loss.detach().isfinite()
        with torch.no_grad():
            for value, old in zip_longest(self._state(), before, fillvalue=0):  # 0: of a new state
                value.copy_(torch.where(finite, value, old))
        right = (logits.argmax(1) == labels).sum()
        sums = torch.stack([right.float(), loss.detach(), count.float()])
        return torch.where(finite, sums, 0)

    def _state(self) -> list[Tensor]:
        """All that a step changes; the optimizer has no state before its first step."""
        averages = (v for state in self.optimizer.state.values() for v in state.values())
        return [*self.buffers(), *self.parameters(), *averages]

    @torch.no_grad()
    def classify(self, features: Tensor, like: Tensor | None = None) -> Tensor:
        """(B, D) to classes (B,), normalised as ``like`` (N, D) is, or as the last batches were.

        The statistics of the last batches are old ones where an encoder learns fast.
        """
        norm = self.norm
        mean, var = norm.running_mean, norm.running_var
        if like is not None:
            var, mean = torch.var_mean(like, 0)
        return self.linear(F.batch_norm(features, mean, var, eps=norm.eps)).argmax(1)

    def saved(self) -> dict:
        """Tensors and plain values, for a checkpoint."""
        return dict(head=self.state_dict(), optimizer=self.optimizer.state_dict())

    def resume(self, saved: dict) -> bool:
        """Goes on from ``saved``; False where that is a head of other features or classes."""
        own, other = self.state_dict(), saved["head"]
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in other.items()}:
            return False
        self.load_state_dict(other)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr  # the config's, not the checkpoint's
        return True


def labels_of(samples: Sequence | None) -> Tensor:
    """(B,) labels of data samples, on the CPU; NONE where one has none, or several."""
    labels = [None if sample is None else sample.get("gt_label") for sample in samples or ()]
    single = [NONE if label is None or len(label) != 1 else int(label) for label in labels]
    return torch.tensor(single, dtype=torch.long)


def within(labels: Tensor, classes: int) -> Tensor:
    """NONE in the place of what is none of so many classes."""
    return labels.masked_fill((labels < 0) | (labels >= classes), NONE)


def names_of(dataset: object) -> tuple[str, ...]:
    """Of its classes, where its metainfo has them."""
    return tuple((getattr(dataset, "metainfo", None) or {}).get("classes") or ())


def classes_of(dataset: object) -> int | None:
    """How many, by the names in its metainfo, or by the labels of a small data set; else None."""
    if names := names_of(dataset):
        return len(names)
    if len(dataset) > COUNTED:
        return None
    try:
        return int(dataset.get_gt_labels().max()) + 1
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
