"""What a loss or a layer needs of the other processes' batches: BAKE over all ranks, and batch norm over all ranks.

Training with `torch.nn.parallel.DistributedDataParallel` averages the gradients of the ranks, so for most losses every
rank can mind its own part of the batch. Two things do not come apart like that: the targets of BAKE (arXiv 2104.13298),
which are over the batch of all processes, and batch norm, whose statistics BAKE wants over the same batch (with plain
batch norm its ResNet-50 loses 2 points). With both from here, gradients, loss and running statistics equal those of one
process with the whole batch.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

import dali_dr.losses as losses
from dali_dr.errors import DaliDrError


def gather_rows(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The rows of all ranks, in the order of ranks, without gradient.

    Args:
      tensor: (B, ...) of one dtype and trailing shape on all ranks; B may differ.

    Returns:
      (sum of all B, ...), and the number of the first row that is this rank's own. Without a process group, the tensor's
      rows and 0.
    """
    tensor = tensor.detach()
    if not _together():
        return tensor, 0
    own = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    rows = [int(count) for count in torch.cat(counts).tolist()]
    most = max(rows)
    padded = tensor.new_zeros((most, *tensor.shape[1:]))  # gloo gathers tensors of one shape only
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(parts, padded)
    first = sum(rows[: dist.get_rank()])
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)]), first


def bake_loss(
    logits: torch.Tensor,
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    mix_labels: torch.Tensor | None = None,
    mix_weight: torch.Tensor | None = None,
    omega: float = 0.5,
    temperature: float = 4.0,
    weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """`dali_dr.losses.bake_loss` of the batch of all ranks, this rank's part of it; called by all of them.

    Targets come from the features and predictions of all ranks. They have no gradient, in the paper as in its code, so
    none flows to another rank. The mean of the returned values over the ranks is the loss of the whole batch, and so is
    the mean of the gradients, which DistributedDataParallel takes: also where ranks have parts of different sizes.

    Args: see `dali_dr.losses.bake_loss`, of this rank.

    Returns:
      A scalar; without a process group, `dali_dr.losses.bake_loss` itself.
    """
    everything, _ = gather_rows(features)
    predictions, first = gather_rows(logits)
    targets = losses.bake_targets(everything, predictions, omega=omega, temperature=temperature)
    loss = losses.bake_loss(
        logits,
        features,
        labels,
        mix_labels=mix_labels,
        mix_weight=mix_weight,
        omega=omega,
        temperature=temperature,
        weight=weight,
        label_smoothing=label_smoothing,
        targets=targets[first : first + len(logits)],
    )
    ranks = dist.get_world_size() if _together() else 1
    return loss if ranks * len(logits) == len(predictions) else loss * (ranks * len(logits) / len(predictions))


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the batches of all ranks, on any device that the process group has collectives for.

    torch's own of this name works on GPUs only. Affine parameters, running statistics, momentum and evaluation are those
    of `torch.nn.BatchNorm2d` on the whole batch; ranks may have parts of different sizes. Half precision is normalised in
    float32, and the result has the input's type. Made by `convert_sync_batchnorm`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> (B, C, ...), and then what timm's BatchNormAct2d has after its norm."""
        if not self.training or not _together():
            output = super().forward(input)
        else:
            normalised = _Normalise.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
            output, mean, variance, count = normalised
            self._keep(mean, variance, count)
        for name in ("drop", "act"):
            if (after := self._modules.get(name)) is not None:
                output = after(output)
        return output

    @torch.no_grad()
    def _keep(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        """Updates the running statistics as torch does, with the unbiased variance."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), factor)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm wants (B, C, ...), got {tuple(input.shape)}")


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) · weight + bias with the statistics of all ranks, by one collective each way."""

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        x = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
        own = torch.tensor(x.numel() // x.shape[1], dtype=x.dtype, device=x.device)
        others = [n for n in range(x.ndim) if n != 1]
        variance, mean = torch.var_mean(x, others, correction=0)
        # Statistics of parts come together by their means and squared distances, not by sums of squares, which cancel.
        sent = torch.cat([mean, variance, own[None]])
        received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(received, sent)
        channels = x.shape[1]
        table = torch.stack(received)
        means, variances, counts = table[:, :channels], table[:, channels : 2 * channels], table[:, 2 * channels :]
        count = counts.sum()
        if count < 2:
            raise ValueError("batch norm wants more than one value per channel on all ranks together")
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
        scale = (variance + eps).rsqrt()
        normal = (x - _along(mean, x)) * _along(scale, x)
        ctx.save_for_backward(normal, scale, weight, count)
        ctx.mark_non_differentiable(mean, variance, count)
        output = normal if weight is None else normal * _along(weight.to(x.dtype), x)
        output = output if bias is None else output + _along(bias.to(x.dtype), x)
        return output.to(input.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normal, scale, weight, count = ctx.saved_tensors
        gradient = gradients[0].to(normal.dtype)
        others = [n for n in range(normal.ndim) if n != 1]
        own = torch.stack([gradient.sum(others), (gradient * normal).sum(others)])
        total = own.clone()
        dist.all_reduce(total)  # every rank's output depends on this rank's input through the statistics
        mean, along = total / count
        by_input = gradient - _along(mean, gradient) - normal * _along(along, gradient)
        factor = scale if weight is None else scale * weight.to(scale.dtype)
        by_input = (by_input * _along(factor, gradient)).to(gradients[0].dtype)
        by_bias, by_weight = own
        if weight is None:
            return by_input, None, None, None
        return by_input, by_weight.to(weight.dtype), by_bias.to(weight.dtype) if ctx.needs_input_grad[2] else None, None


def convert_sync_batchnorm(model: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """The model with every batch norm over all ranks, timm's with their activation included.

    Parameters and buffers stay the same tensors under the same names, so checkpoints fit either way. To be done before
    DistributedDataParallel. On a GPU torch's and timm's own layers come in; elsewhere `SyncBatchNorm`.

    Args:
      model: changed in place, unless it is a batch norm itself.
      device: on which it will run.

    Raises:
      DaliDrError: a batch norm of a class that does more than torch's and timm's.
    """
    from timm.layers import convert_sync_batchnorm as convert_for_gpu

    _check_known(model)
    if torch.device(device).type == "cuda":
        return cast(torch.nn.Module, convert_for_gpu(model))
    return _convert(model)


def _check_known(model: torch.nn.Module) -> None:
    from timm.layers import BatchNormAct2d

    known = (_BatchNorm.forward, BatchNormAct2d.forward, torch.nn.SyncBatchNorm.forward, SyncBatchNorm.forward)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module).forward not in known:
            what = f"{type(module).__module__}.{type(module).__qualname__}"
            raise DaliDrError(
                f"{name or 'the model'} is a {what}, of which no synchronised form is known: leave sync_bn off"
            )


def _convert(module: torch.nn.Module) -> torch.nn.Module:
    result = module
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        result = SyncBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        result._parameters = module._parameters
        result._buffers = module._buffers
        result.training = module.training
    for name, child in module.named_children():
        result.add_module(name, _convert(child))
    return result


def _along(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(C,) for (B, C, ...)."""
    return values.view(1, -1, *[1] * (like.ndim - 2))


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
