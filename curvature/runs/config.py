"""What is trained (`RunConfig`) and what is measured (`AnalysisConfig`), with content-hash ids."""

import hashlib
import json
import re
from dataclasses import Field, asdict, dataclass, fields
from typing import Any, ClassVar

from curvature import names
from curvature.runs.fields import checked, option

SPLITS = ("train", "val", "test")
FORMAT = 1  # of the ids: raise it when a field changes its meaning

_COMPILE = "--compile/--no-compile"
_FLOAT32 = 3.4e38  # more is infinite in a network's precision
_SEEDS = 2**63  # what a torch.Generator takes
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", re.IGNORECASE)
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class _Hashed:
    """Gives a config its id: the hash of what changes the result (no paths, devices, threads)."""

    _specs: ClassVar[tuple[str, ...]] = ()  # fields of the form NAME[:DIR][,key=value…]

    def __post_init__(self) -> None:
        for f in _fields(self):
            object.__setattr__(self, f.name, checked(getattr(self, f.name), f))
        for name in self._specs:
            if getattr(self, name) is not None:
                _portable(getattr(self, name))  # refuses what has not the grammar

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of SHA-256 over the canonical JSON of what is in the id."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def identity(self) -> dict[str, Any]:
        """The fields that change the result; directories and the order of repeats removed."""
        values = {f.name: getattr(self, f.name) for f in _fields(self) if f.metadata["in_id"]}
        values = {k: sorted(set(v)) if isinstance(v, tuple) else v for k, v in values.items()}
        for name in self._specs:
            if values.get(name) is not None:
                values[name] = _portable(values[name])
        return {"format": FORMAT, **values}

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, fit for JSON and for ``from_dict``."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        """The config of ``to_dict``, through JSON too; unknown fields are refused by name."""
        known = {f.name: f for f in _fields(cls)}
        unknown = sorted(set(values) - set(known), key=str)
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no field {', '.join(map(repr, unknown))}: "
                "it may have been written by a newer version."
            )
        try:
            return cls(**values)
        except TypeError as error:  # a file's contents, so the value is what is wrong
            raise ValueError(str(error)) from None


@dataclass(frozen=True)
class RunConfig(_Hashed):
    """What is trained. Names are keys of the dicts MODELS, DATASETS, LOSSES, OPTIMIZERS."""

    _specs = ("model", "data")

    model: str = option(
        "mlp", "Model: a name of `curv models`, as vgg19:width=0.25, or module:factory."
    )
    data: str = option("digits", "Data, as cifar10:DIR (see `curv datasets`), or module:factory.")
    loss: str = option("cross_entropy", "Loss: a name, or module:function.")
    optimizer: str = option(
        "sgd", "sgd, msgd, adam, sam, sa-sgd, sa-sam (see `curv optimizers`), or module:class."
    )
    lr: float = option(0.1, "Learning rate η (for sa-sgd and sa-sam: η₀).", above=0, below=_FLOAT32)
    weight_decay: float = option(
        0.0, "Weight decay λ: adds λw to the gradient that descends.", least=0, below=_FLOAT32
    )
    rho: float | None = option(
        None, "Radius ρ of the ascent step (sam; its default is 0.05).", least=0, below=_FLOAT32
    )
    sa_variant: str = option(
        "poster",
        "sa-sgd, sa-sam: the `poster` or the `released` formulas.",
        choices=("poster", "released"),
    )
    optimizer_options: tuple[str, ...] = option(
        (), "An optimizer's own option, key=value; may be repeated.", flag="--optimizer-option"
    )
    epochs: int = option(20, "Passes over the training data.", least=0)
    steps: int | None = option(None, "Stop after this many steps, whatever the epochs.", least=0)
    batch_size: int = option(64, "Examples per step.", least=1)
    schedule: str = option(
        "constant", "Learning rate over time: constant or cosine.", choices=("constant", "cosine")
    )
    warmup_epochs: float = option(0.0, "Epochs of linear warm-up before the schedule.", least=0)
    label_smoothing: float = option(0.0, "Label smoothing of the training loss.", least=0, below=1)
    clip_norm: float | None = option(None, "Clip gradients to this norm.", above=0)
    precision: str = option(
        "float32",
        "float32, or bfloat16 autocast (norms stay in float32).",
        choices=("float32", "bfloat16"),
    )
    compile: bool = option(
        False, "Compile the steps: alike but for rounding.", flag=_COMPILE, in_id=False
    )
    seed: int = option(
        0, "Seed of the initial weights, the order of the data, the rest.", least=0, below=_SEEDS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        names.pairs(self.optimizer_options)  # refuses what is not key=value, or stands twice

    def as_columns(self) -> dict[str, Any]:
        """The fields as columns of a row: run.optimizer, run.lr and so on."""
        return {
            f"run.{name}": " ".join(value) if isinstance(value, tuple) else value
            for name, value in self.to_dict().items()
        }


@dataclass(frozen=True)
class AnalysisConfig(_Hashed):
    """What is measured, on what, how. Nothing here depends on the machine but the last six."""

    _specs = ("model", "data")

    model: str | None = option(None, "Model, where the checkpoint doesn't say: a name or factory.")
    data: str | None = option(None, "Data: NAME[:DIR][,key=value…]; else the checkpoint's own.")
    split: str = option("test", "Part of the data: train, val or test.", choices=SPLITS)
    examples: int | None = option(
        None, "Take N examples: seeded, balanced over the classes.", least=1
    )
    first: int | None = option(None, "Take the first N examples instead.", least=1)
    loss: str | None = option(None, "Loss: a name or module:function; else the checkpoint's own.")
    params: tuple[str, ...] = option(
        (), "Only the parameters whose names match this pattern (fnmatch); may be repeated."
    )
    trace: bool = option(False, "Tr(H).")
    trace_method: str = option(
        "auto",
        "How Tr(H) is estimated: by parts where that can be, or by Hutchinson's probes alone.",
        choices=("auto", "split", "hutchinson", "exact"),
    )
    trace_rtol: float = option(0.01, "Stop Tr(H) at this relative standard error.", above=0)
    scale_invariant: bool = option(
        False, "Σ w_i² H_ii beside Tr(H): rescaling a layer before BatchNorm doesn't change it."
    )
    max_passes: int = option(1000, "Stop Tr(H) after this many passes at the most.", least=8)
    eigmax: bool = option(False, "λ_max, the largest eigenvalue (algebraically).")
    eigmax_method: str = option(
        "lanczos", "How λ_max is found.", choices=("lanczos", "staged", "power")
    )
    eigmax_rtol: float = option(1e-3, "Stop λ_max at this relative error.", above=0)
    max_products: int = option(
        200, "Stop an eigenvalue after this many products at the most.", least=1
    )
    top: int = option(1, "The K largest eigenvalues.", least=1)
    eigmin: bool = option(False, "The most negative eigenvalue too.")
    with_weight_decay: bool = option(False, "Count the weight decay λ in: H + λI.")
    backend: str = option(
        "curvature",
        "Whose estimators: our own, or PyHessian as a cross-check.",
        choices=("curvature", "pyhessian"),
    )
    seed: int = option(
        0, "Seed of the probes, start vectors and of the choice of examples.", least=0, below=_SEEDS
    )
    batch_size: int = option(
        128, "Examples that share a probe (a mini-batch of the trace).", least=1
    )
    batchnorm: str = option(
        "eval",
        "BatchNorm: eval (running statistics) or train (a single batch).",
        choices=("eval", "train"),
    )
    dtype: str = option(
        "float32", "Precision of weights and products.", choices=("float32", "float64")
    )
    tf32: bool = option(False, "Allow TF32 on a GPU (less accurate).")
    products: str | None = option(
        None,
        "How Hv is formed: auto looks for the fastest way, plain is autograd twice as it is (a "
        "sweep's), differences are of the gradient (smooth networks without a second derivative).",
        in_id=False,
        choices=("auto", "plain", "differences"),
    )
    memory: str | None = option(
        None, "Memory for products and the graphs kept between them, as 4GB.", in_id=False
    )
    micro_batch: int | None = option(None, "Examples at a time in memory.", in_id=False, least=1)
    device: str = option("auto", "auto, cpu, cuda[:i] or mps.", in_id=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples is not None and self.first is not None:
            raise ValueError("`examples` and `first` both choose examples: give one of them.")
        if self.top > self.max_products:
            raise ValueError(f"`top` {self.top} takes more products than `max_products` allows.")
        self._refuse_ignored()
        self.memory_bytes  # noqa: B018 (refuses what is no size)
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(f"`device` is auto, cpu, cuda, cuda:N or mps, not `{self.device}`.")

    def _refuse_ignored(self) -> None:
        """What was asked for and would not be measured."""
        theirs = self.backend == "pyhessian"
        for flag, asked in (
            ("--top", self.top > 1),
            ("--eigmin", self.eigmin),
            ("--with-weight-decay", self.with_weight_decay),
            ("--eigmax-method staged", self.eigmax_method == "staged"),
            ("--products differences", self.products == "differences"),
            ("--scale-invariant", self.scale_invariant),
            (f"--trace-method {self.trace_method}", self.trace_method in ("split", "exact")),
        ):
            if theirs and asked:
                raise ValueError(f"PyHessian takes no `{flag}`: leave that out, or the backend.")
        if self.eigmax_method == "power" and self.top > 1:
            raise ValueError("Power iteration finds one eigenvalue: `--top` takes lanczos.")

    def identity(self) -> dict[str, Any]:
        """The fields that change the result; a measure that isn't asked for is none."""
        values = super().identity()
        if not self.scale_invariant:
            del values["scale_invariant"]
        return values

    @property
    def memory_bytes(self) -> float | None:
        """``memory`` in bytes."""
        if self.memory is None:
            return None
        size = _SIZE.fullmatch(self.memory.strip())
        if not size:
            raise ValueError(f"`memory` is a size such as 500MB or 4GB, not `{self.memory}`.")
        return float(size[1]) * 1000.0 ** " KMGT".index(size[2].upper() or " ")

    @property
    def wants_trace(self) -> bool:
        """Tr(H) is asked for, or nothing in particular."""
        return (
            self.trace or self.scale_invariant or not (self.eigmax or self.eigmin or self.top > 1)
        )

    @property
    def wants_eigmax(self) -> bool:
        """λ_max or the top eigenvalues are asked for, or nothing in particular."""
        return (
            self.eigmax or self.top > 1 or not (self.trace or self.scale_invariant or self.eigmin)
        )


def _fields(config: Any) -> tuple[Field[Any], ...]:
    return fields(config)


def _portable(text: str) -> str:
    return names.parse(text, names.TAKE_A_DIRECTORY).portable
