"""Watch what an encoder has learned while it trains: curves of a linear head and of kNN.

Shape legend: B images of a batch, D width of a feature, C classes.
"""

from collections import deque
from contextlib import AbstractContextManager
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from xtra_toolkit.data.classes import classes_of, names_of
from xtra_toolkit.evaluation.knn_vote import pooled
from xtra_toolkit.evaluation.online_head import (
    NONE,
    OnlineHead,
    labels_of,
    within,
)
from xtra_toolkit.evaluation.probe_validation import ProbeValidation
from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.delayed_read import OneStepLate
from xtra_toolkit.utils.preserve_state import untouched
from xtra_toolkit.utils.unwrap import unwrap_model

MOST = 20  # updates from one look to the next, where nobody chose
LOOKS = 500  # of a run, where nobody chose
LINEAR = "probe/linear_top1"
RECENT = 20  # batches that the training accuracy is taken over


@HOOKS.register_module()
class OnlineProbe(Hook):
    """Train a linear head beside the pretraining, and run kNN in each validation.

        --cfg-options default_hooks.online_probe.type=xtra_toolkit.OnlineProbe \\
            train_dataloader.dataset.with_label=True

    After the first update and every ``interval``-th, the hook extracts features of the first
    micro-batch of the step as a probe would: the encoder alone, in evaluation mode, under its
    feature mask, in the precision of the training, averaged over the patch tokens. Nothing of the
    training changes: weights and losses are bit-identical with and without this hook.

    It logs in per cent ``probe/train_top1`` over the last 20 batches (each is classified before
    the head learns from it, with the statistics of the batch); ``probe/loss`` of the same batches
    (MMEngine's default ``log_processor`` averages it once more); and, if there is a validation
    with labels, ``probe/linear_top1`` and ``probe/knn_top1``, which ``save_best`` may name, and
    ``probe/rankme``, the effective rank of the bank's features (see
    :func:`xtra_toolkit.evaluation.rankme.rankme`): it falls towards 1 when the features collapse.
    The number of classes is logged as ``probe/classes``. If a model learns from several views of an
    image (for example MMPretrain's SimCLR), the first view is used. Labels do not reach the
    encoder: it trains the same with ``with_label=False``. Under EMAHook, validation uses the
    averaged encoder, on which the head was not trained. Models that are not self-supervised are
    left alone.

    One look takes 0.10 of a step of XTRA-B/16 and 0.39 of a step of MAE-B/16 (2 CPU cores, bf16).
    That is 0.5 and 2 % of the training with ``interval=20``, and less with gradient accumulation.

    Args:
        interval: Number of updates from one look to the next. Default: a five-hundredth of the run,
            at least 1 and at most 20. With the default no figure of the head is logged before it
            has looked 20 times, because a head that has hardly learned says nothing about features.
        bank: Number of training images that vote in kNN. They are evenly spread over the data set
            and not augmented; their features are extracted anew in each validation. 0: neither kNN
            nor RankMe.
        k, temperature: Parameters of the votes, see :class:`KNNValLoop`.
        lr: Constant learning rate of the head. Default: 0.08 / sqrt(D), see :class:`OnlineHead`.
        num_classes: Number of classes. Default: the number of class names of the training set, or,
            for data sets of at most 100,000 images without names, the largest label plus one.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(
        self,
        interval: int | None = None,
        bank: int = 10_000,
        k: int = 20,
        temperature: float = 0.07,
        lr: float | None = None,
        num_classes: int | None = None,
    ):
        self.chosen, interval = interval, MOST if interval is None else interval
        if interval < 1 or k < 1 or (lr is not None and lr <= 0) or (bank and bank < k):
            raise ValueError(
                f"OnlineProbe(interval={interval}, k={k}, lr={lr}, bank={bank}) was given; "
                "interval and k are at least 1, lr is above 0, and bank is at least k, or 0 for "
                "no kNN"
            )
        self.interval, self.lr, self.num_classes = interval, lr, num_classes
        self.validation = ProbeValidation(self.features, bank, k, temperature)
        self.head: OnlineHead | None = None
        self._off = self._begun = self._warned = False
        self._saved: dict | None = None
        self._recent: deque[list[float]] = deque(maxlen=RECENT)
        self._late = OneStepLate()

    def before_train(self, runner: Any) -> None:
        """Skip other models, and restore a resumed head, since a validation may come first."""
        self._off = not isinstance(unwrap_model(runner.model), BaseSelfSupervisor)
        self._resumed = bool(runner.iter)
        if self.chosen is None:
            self.interval = max(1, min(MOST, runner.max_iters // LOOKS))
        self._saved = self._saved if runner.iter else None  # load_from brings one too
        if self._saved and not self._off:
            classes, width = self._saved["head"]["linear.weight"].shape
            known = self.num_classes or len(names_of(runner.train_dataloader.dataset)) or classes
            if known == classes:
                self.num_classes = classes
                self._make_head(runner, width)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: dict | None = None, outputs: Any = None
    ) -> None:
        """Extract features, log the last result, and take one step of the head."""
        due = self.head is None or self.every_n_train_iters(runner, self.interval)
        if self._off or not due:
            return
        labels = labels_of(data_batch.get("data_samples"))
        if not self._begun and not self._begins(runner, labels):
            return
        wrapper = runner.optim_wrapper
        features = self.features(runner, data_batch, wrapper.optim_context(runner.model))
        if self.head is None:
            self._make_head(runner, features.shape[1])
        labels = self._counted(runner, labels)
        sums = self.head.learn(features, labels.to(features.device, non_blocking=True))
        self._report(runner, self._late(sums))

    def after_train_epoch(self, runner: Any) -> None:
        """Log the last batch, which on a GPU is read one step later."""
        self._report(runner, self._late.flush())

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: dict | None = None) -> None:
        """Extract the features of the bank before the first batch.

        It is not done earlier, because EMAHook swaps the averaged weights in before validation.
        """
        if self.head is not None and batch_idx == 0:
            self.validation.begin(runner, self.head, data_batch)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: dict | None = None, outputs: Any = None
    ) -> None:
        """Classify a batch."""
        if self.head is not None:
            self.validation.classify(runner, data_batch)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Add the accuracies to the metrics of validation before they are logged."""
        found = self.validation.end(runner) if self.head is not None else {}
        best = [getattr(hook, "save_best", None) for hook in runner.hooks]
        if self._is_early() and not any(LINEAR in str(name) for name in best):
            found.pop(LINEAR, None)
        if found:  # the report compares accuracies among equally many classes
            found["probe/classes"] = self.head.linear.out_features
        for name, value in found.items():
            runner.message_hub.update_scalar(f"val/{name}", value)
            if metrics is not None:
                metrics[name] = value

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Save the head, its optimizer and the results of the last batches."""
        self._report(runner, self._late.flush())
        if self.head is not None:
            checkpoint["online_probe"] = dict(self.head.saved(), recent=list(self._recent))

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep the saved head until the width of the features is known."""
        self._saved = checkpoint.get("online_probe")

    def features(self, runner: Any, data_batch: dict, context: AbstractContextManager) -> Tensor:
        """Return the pooled features of a batch, (B, D) in float32, without gradients."""
        model = runner.model
        if isinstance(model, DistributedDataParallel):
            model = model.module  # nothing to synchronise; other wrappers hold the weights apart
        inner = unwrap_model(model)
        with untouched(inner), torch.no_grad(), context:
            images = inner.data_preprocessor(data_batch, False)["inputs"]
            images = images[0] if isinstance(images, list | tuple) else images  # of several views
            feature = model(images, mode="tensor")
            return pooled(feature, getattr(inner.backbone, "num_extra_tokens", 0))

    def _begins(self, runner: Any, labels: Tensor) -> bool:
        """Return whether there are labels and a known number of classes; warn once if not."""
        self._begun, device = True, next(runner.model.parameters()).device
        any_label = (labels != NONE).any().float().to(device)
        all_reduce(any_label, "max")
        dataset, reason = runner.train_dataloader.dataset, ""
        if not any_label:
            reason = (
                "the training images have no labels (ImageFolder: "
                "train_dataloader.dataset.with_label=True)"
            )
        elif (classes := self.num_classes or classes_of(dataset)) is None:
            reason = (
                f"{type(dataset).__name__} names no classes, and its labels are not counted; set "
                "default_hooks.online_probe.num_classes"
            )
        else:
            self.num_classes = classes
        self._off = bool(reason)
        if reason:
            self.head = None
            runner.logger.warning(f"OnlineProbe reports nothing: {reason}.")
        return not reason

    def _make_head(self, runner: Any, width: int) -> None:
        classes, device = self.num_classes, next(runner.model.parameters()).device
        self.head = OnlineHead(width, classes, self.lr).to(device)
        if not self._resumed:
            return
        if self._saved and self.head.resume(self._saved):
            self._recent.extend(self._saved["recent"])
        else:
            runner.logger.info(
                f"OnlineProbe: the checkpoint holds no head for {width} values and {classes} "
                "classes; one starts anew, so its curve begins at the bottom."
            )
        self._saved = None

    def _counted(self, runner: Any, labels: Tensor) -> Tensor:
        """Replace labels that are no class by NONE; warn once."""
        classes = self.head.linear.out_features
        if not self._warned and bool((labels >= classes).any()):
            self._warned = True
            runner.logger.warning(
                f"OnlineProbe has {classes} classes, and there is a label {int(labels.max())}: "
                "such images do not count; set default_hooks.online_probe.num_classes."
            )
        return within(labels, classes)

    def _is_early(self) -> bool:
        """Return whether the head has learned too little for a figure of the default interval."""
        return self.chosen is None and len(self._recent) < RECENT

    def _report(self, runner: Any, known: tuple | None) -> None:
        if known is None or not known[0][2]:
            return
        self._recent.append(known[0])
        if self._is_early():
            return
        right, loss, count = map(sum, zip(*self._recent, strict=True))
        runner.message_hub.update_scalar("train/probe/train_top1", 100 * right / count)
        runner.message_hub.update_scalar("train/probe/loss", loss / count)
