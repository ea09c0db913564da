"""The losses that can be named, each weighed as its torch.nn twin weighs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from curvature.losses.loss import Loss, Reduction
from curvature.losses.softmax import softmax_root_product

_CLASSES, _OUTPUTS = 1024, 2**14  # of an example, up to which the loss is formed in float64


def cross_entropy(
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Loss:
    """Softmax cross-entropy of logits (N, C, …) and class indices (N, …), or probabilities.

    Weighs as ``torch.nn.CrossEntropyLoss``: by ω_y, 0 at ``ignore_index``; probabilities by 1.
    """

    def on(tensor: Tensor) -> Tensor | None:
        return None if class_weights is None else class_weights.to(tensor.device, tensor.dtype)

    def sum_(outputs: Tensor, targets: Tensor) -> Tensor:
        _classes_second(outputs, targets)
        f = _exact(outputs)
        with _naming_classes("cross_entropy", outputs):
            return F.cross_entropy(
                f,
                targets.to(f.dtype) if targets.is_floating_point() else _labels(targets),
                weight=on(f),
                ignore_index=ignore_index,
                label_smoothing=label_smoothing,
                reduction="sum",
            )

    def weight(outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():  # probabilities; torch divides by the number of them
            return torch.tensor(targets.numel() // max(1, targets.shape[1]))
        return _weight_of_labels(targets, ignore_index, class_weights)

    def root(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.ndim != 2:
            raise ValueError(f"`hessian_root` takes logits (N, C), got {tuple(outputs.shape)}.")
        log_p = outputs.double().log_softmax(1)
        p = log_p.exp()
        eigenvalues, U = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
        scale = target_mass(outputs, targets).sqrt()
        S: Tensor = U * (eigenvalues.clamp(min=0).sqrt() * scale[:, None])[:, None, :]
        return S.to(outputs.dtype)

    def product(outputs: Tensor, targets: Tensor, u: Tensor) -> Tensor:
        f = outputs.movedim(1, -1)
        soft = targets.is_floating_point()
        q = targets.movedim(1, -1).flatten(0, -2) if soft else targets.flatten()
        scale = target_mass(f.flatten(0, -2), q).sqrt()[:, None]
        Su = softmax_root_product(f.flatten(0, -2), u.movedim(2, -1).flatten(1, -2)) * scale
        return Su.view(len(u), *f.shape).movedim(-1, 2).to(outputs.dtype)

    def target_mass(outputs: Tensor, targets: Tensor) -> Tensor:
        """Σ_c ω_c q_ic: the factor of diag(p) − ppᵀ; with plain labels 1."""
        C = outputs.shape[1]
        keep = torch.ones(len(outputs), dtype=torch.float64, device=outputs.device)
        q = targets.double()
        if not targets.is_floating_point():
            keep = (targets != ignore_index).double()
            q = F.one_hot(_labels(targets).clamp(0, C - 1), C).double()
        q = (1 - label_smoothing) * q + label_smoothing / C
        omega = torch.ones(C) if class_weights is None else class_weights
        return keep * torch.mv(q, omega.to(q.device, q.dtype))

    return Loss("cross_entropy", sum_, weight, root, reduction, additive=True, root_product=product)


def mse(*, reduction: Reduction = "mean") -> Loss:
    """Squared error (f − y)², averaged over all elements, as ``torch.nn.MSELoss``."""

    def sum_(outputs: Tensor, targets: Tensor) -> Tensor:
        _same_shape(outputs, targets, "mse")
        return F.mse_loss(outputs, targets.to(outputs.dtype), reduction="sum")

    def root(outputs: Tensor, targets: Tensor) -> Tensor:
        f = _rows(outputs)
        S = torch.eye(f.shape[1], dtype=f.dtype, device=f.device).mul(2**0.5)
        return S.expand(len(f), -1, -1)

    def product(outputs: Tensor, targets: Tensor, u: Tensor) -> Tensor:
        return u.to(outputs.dtype) * 2**0.5

    return Loss("mse", sum_, _numel, root, reduction, additive=True, root_product=product)


def bce(*, pos_weight: Tensor | None = None, reduction: Reduction = "mean") -> Loss:
    """Binary cross-entropy of logits and targets in [0, 1], averaged over all elements.

    ``pos_weight`` multiplies the term of y = 1, as in ``torch.nn.BCEWithLogitsLoss``.
    """

    def on(tensor: Tensor) -> Tensor | None:
        return None if pos_weight is None else pos_weight.to(tensor.device, tensor.dtype)

    def sum_(outputs: Tensor, targets: Tensor) -> Tensor:
        _same_shape(outputs, targets, "bce")
        f = _exact(outputs)
        return F.binary_cross_entropy_with_logits(
            f, targets.to(f.dtype), pos_weight=on(f), reduction="sum"
        )

    def diagonal(outputs: Tensor, targets: Tensor) -> Tensor:
        f = outputs.double()
        omega: Tensor | float = 1.0
        if pos_weight is not None:
            omega = 1 + (pos_weight.to(f.device, f.dtype) - 1) * targets.double()
        return (omega * f.sigmoid() * (-f).sigmoid()).sqrt().to(outputs.dtype)

    def root(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.diag_embed(_rows(diagonal(outputs, targets)))

    def product(outputs: Tensor, targets: Tensor, u: Tensor) -> Tensor:
        return diagonal(outputs, targets) * u

    return Loss("bce", sum_, _numel, root, reduction, additive=True, root_product=product)


def huber(*, delta: float = 1.0, reduction: Reduction = "mean") -> Loss:
    """Huber loss, threshold ``delta``, averaged over all elements, as ``torch.nn.HuberLoss``."""

    def sum_(outputs: Tensor, targets: Tensor) -> Tensor:
        _same_shape(outputs, targets, "huber")
        return F.huber_loss(outputs, targets.to(outputs.dtype), delta=delta, reduction="sum")

    def root(outputs: Tensor, targets: Tensor) -> Tensor:
        e = _rows(outputs - targets.to(outputs.dtype)).abs()
        return torch.diag_embed((e <= delta).to(e.dtype))

    def product(outputs: Tensor, targets: Tensor, u: Tensor) -> Tensor:
        return ((outputs - targets.to(outputs.dtype)).abs() <= delta).to(outputs.dtype) * u

    return Loss("huber", sum_, _numel, root, reduction, additive=True, root_product=product)


def nll(
    *,
    ignore_index: int = -100,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Loss:
    """Negative log-likelihood of log-probabilities (N, C, …), as ``torch.nn.NLLLoss``.

    Without a root: it is linear in the outputs, so G = 0 and the Hessian is all of H − G.
    """
    unseen = [True]  # logits are told from log-probabilities on the first batch alone

    def sum_(outputs: Tensor, targets: Tensor) -> Tensor:
        if unseen:
            _log_probabilities(outputs)
            unseen.clear()
        omega = None if class_weights is None else class_weights.to(outputs.device, outputs.dtype)
        with _naming_classes("nll", outputs):
            return F.nll_loss(
                outputs, _labels(targets), weight=omega, ignore_index=ignore_index, reduction="sum"
            )

    def weight(outputs: Tensor, targets: Tensor) -> Tensor:
        return _weight_of_labels(targets, ignore_index, class_weights)

    return Loss("nll", sum_, weight, None, reduction, additive=True)


def _log_probabilities(outputs: Tensor) -> None:
    """Refuse raw logits, of which the loss has no minimum; NaN is left to whoever adds up."""
    total = torch.logsumexp(outputs.detach().double(), dim=1 if outputs.ndim > 1 else 0)
    if bool((total > 1e-2).any()):
        raise ValueError(
            f"`nll` takes log-probabilities, and the outputs' exponentials add up to "
            f"{float(total.max().exp()):.3g}: logits, perhaps. Use the loss `cross_entropy`, or "
            "end the model in LogSoftmax."
        )


def _weight_of_labels(targets: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
    counted: Tensor = _labels(targets)[targets != ignore_index]
    if class_weights is None:
        return torch.tensor(counted.numel())
    return class_weights.to(targets.device).double()[counted].sum()


def _exact(outputs: Tensor) -> Tensor:
    """Logits in float64: in float32 the slope p − y of sure examples is mostly rounding.

    At a loss of 1e-6 it is off by 6 %. Not of a vocabulary or an image, for their memory.
    """
    few = outputs.shape[1:2].numel() <= _CLASSES and outputs.shape[1:].numel() <= _OUTPUTS
    known = outputs.dtype == torch.float32 and outputs.device.type != "mps"
    return outputs.double() if few and known else outputs


def _labels(targets: Tensor) -> Tensor:
    """Class indices as torch wants them: NumPy's are often int32 or uint8."""
    return targets if targets.is_floating_point() else targets.long()


def _rows(outputs: Tensor) -> Tensor:
    """(N, C) of (N, …), and of (N,) with one output per example."""
    return outputs.reshape(len(outputs), -1)


@contextmanager
def _naming_classes(loss: str, outputs: Tensor) -> Iterator[None]:
    """Say how many classes there are where a target is none of them; costs nothing otherwise."""
    try:
        yield
    except IndexError as error:
        count = outputs.shape[1 if outputs.ndim > 1 else 0]
        raise ValueError(
            f"{str(error).rstrip('.')}: `{loss}` got outputs for {count} classes, so its targets "
            f"are 0 to {count - 1}. Count the classes from 0, or give the model more outputs."
        ) from error


def _classes_second(outputs: Tensor, targets: Tensor) -> None:
    if targets.is_floating_point() and targets.shape != outputs.shape:
        raise ValueError(
            "`cross_entropy` needs class indices as whole numbers, or probabilities in the "
            f"outputs' shape {tuple(outputs.shape)}, got {targets.dtype} of shape "
            f"{tuple(targets.shape)}. For a regression take the loss `mse`."
        )
    per_token = outputs.ndim > 2 and outputs.shape[:-1] == targets.shape
    if per_token and outputs.shape[2:] != targets.shape[1:]:
        raise ValueError(
            f"`cross_entropy` needs logits (N, C, …), the classes second, got "
            f"{tuple(outputs.shape)} for targets {tuple(targets.shape)}. Of a language model take "
            "the loss `next_token`; else let the model return `logits.mT`, or pass a loss of "
            "(outputs, targets) that returns (mean, weight)."
        )
    indices = outputs.shape[:1] + outputs.shape[2:]
    if outputs.ndim > 1 and targets.shape not in (indices, outputs.shape):
        raise ValueError(
            f"`cross_entropy` needs class indices of shape {tuple(indices)} for outputs of shape "
            f"{tuple(outputs.shape)}, got {tuple(targets.shape)}."
        )


def _numel(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.tensor(outputs.numel())


def _same_shape(outputs: Tensor, targets: Tensor, name: str) -> None:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"`{name}` needs targets in the outputs' shape {tuple(outputs.shape)}, got "
            f"{tuple(targets.shape)}: broadcasting would compare every output with every target."
        )
