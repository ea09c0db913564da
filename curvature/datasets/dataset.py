"""A data set held as whole tensors: what training and curvature take their batches from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Constants = float | str | tuple[float, ...] | None  # typed in as "0.49/0.48/0.45"


@dataclass(frozen=True)
class Dataset:
    """N examples: ``inputs`` (N, …), uint8 images or floats, and ``targets`` (N, …).

    ``groups`` names a kind for each example (the corruption, the severity), as integers with
    their labels: {"corruption": (codes (N,), ("brightness", …))}.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    classes: int | None = None
    mean: tuple[float, ...] | None = None  # per channel, in [0, 1]
    std: tuple[float, ...] | None = None
    augment: str = "none"  # what training does to a batch: none, crop or crop-flip
    groups: Mapping[str, tuple[Tensor, tuple[str, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(
                f"The data set `{self.name}` has {len(self.inputs):,} inputs but "
                f"{len(self.targets):,} targets; each example needs one of both."
            )
        if self.mean is not None or self.std is not None:
            self._check_constants()

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.inputs.shape[1:])

    def select(self, indices: Tensor | slice) -> "Dataset":
        """The examples at ``indices``, in that order."""
        groups = {k: (codes[indices], labels) for k, (codes, labels) in self.groups.items()}
        return replace(
            self, inputs=self.inputs[indices], targets=self.targets[indices], groups=groups
        )

    def to(self, device: torch.device | str) -> "Dataset":
        """The same with inputs and targets on ``device``."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def _check_constants(self) -> None:
        if self.mean is None or self.std is None or min(self.std) <= 0:
            raise ValueError(
                f"`mean` ({self.mean}) and `std` ({self.std}) of `{self.name}` go together, and "
                "`std` is positive."
            )
        channels = self.input_shape[:1]
        for what, values in (("mean", self.mean), ("std", self.std)):
            if (len(values),) not in ((1,), channels):
                raise ValueError(
                    f"`{what}` has {len(values)} numbers, but the inputs of `{self.name}` are of "
                    f"shape {self.input_shape}: give one for each channel, or one for all."
                )

    def normalized(self, inputs: Tensor) -> Tensor:
        """Raw inputs as the model takes them: uint8 scaled to [0, 1], then (x − mean) / std."""
        x = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
        if self.mean is None or self.std is None:
            return x
        shape = (-1, *[1] * (x.ndim - 2))
        mean = torch.tensor(self.mean, device=x.device, dtype=x.dtype).view(shape)
        std = torch.tensor(self.std, device=x.device, dtype=x.dtype).view(shape)
        return (x - mean) / std

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of SHA-256 over the normalisation, inputs and targets."""
        digest = hashlib.sha256(repr((self.mean, self.std)).encode())
        for tensor in (self.inputs, self.targets):
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            )
        return digest.hexdigest()[:12]


def constants(values: Constants, what: str) -> tuple[float, ...] | None:
    """The normalisation constants of the channels: numbers, or text with slashes between them.

    >>> constants("0.5/0.5/0.4", "mean")
    (0.5, 0.5, 0.4)
    """
    if values is None:
        return None
    if isinstance(values, int | float):
        return (float(values),)
    try:
        return tuple(map(float, values.split("/") if isinstance(values, str) else values))
    except ValueError:
        raise ValueError(
            f"`{what}` is one number for each channel, as in {what}=0.49/0.48/0.45, not `{values}`."
        ) from None
