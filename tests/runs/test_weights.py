"""Strangers' state dicts: found, stripped, told apart, loaded, or refused with the reason."""

import gzip
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from curvature.runs.checkpoint import check_finite, load_checkpoint, load_weights
from curvature.runs.weights import find_weights, weights_hash
from tests.conftest import seeded


class Net(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 3)
        self.head = nn.Linear(3, 6, bias=False)
        self.head.weight = self.embed.weight


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = seeded(seed)
    return {
        name: torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
        for name, tensor in Net().state_dict().items()
    }


W, EMA = weights(0), weights(1)


def prefixed(prefix: str, state: dict[str, Tensor] = W) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def optimizer_state() -> dict[str, Any]:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("found", "notes"),
    [
        (W, []),
        (OrderedDict(W), []),
        ({k: nn.Parameter(v, v.is_floating_point()) for k, v in W.items()}, []),
        *[
            ({key: W, "epoch": 3}, [f"took the weights under `{key}`", "left aside `epoch`"])
            for key in ("state_dict", "model", "model_state_dict", "net", "module", "weights")
        ],
        ({"my_net": W, "rng_state": torch.ones(3)}, ["took the weights under `my_net`", "left"]),
        ({"checkpoint": {"model": W}}, ["took the weights under `checkpoint.model`"]),
        (
            {"model": W, "optimizer": optimizer_state(), "step": torch.tensor(3)},
            ["took the weights under `model`", "left aside `optimizer`, `step`"],
        ),
        ({"optimal": W, "rng": {"cpu": torch.ones(2)}}, ["took the weights under `optimal`", "l"]),
        (
            {"optim": {"state": {"w": {"exp_avg": torch.ones(2)}}}, "params": W},
            ["took the weights under `params`", "left aside `optim`"],
        ),
        ({"model": W, "criterion": {"weight": torch.ones(5)}}, ["took", "left aside `criterion`"]),
        (prefixed("module."), ["removed the prefix `module.` from 9 keys"]),
        (prefixed("_orig_mod."), ["removed the prefix `_orig_mod.` from 9 keys"]),
        ({"state_dict": prefixed("model.")}, ["took", "removed the prefix `model.` from 9 keys"]),
        (
            prefixed("model._orig_mod.module."),
            ["removed the prefix `model.`", "removed the prefix `_orig_mod.`", "removed"],
        ),
        (
            {"n_averaged": torch.tensor(5), **prefixed("module.")},
            ["dropped `n_averaged`", "removed the prefix `module.` from 9 keys"],
        ),
        (
            {**W, "total_ops": torch.ones(1), "conv.total_params": torch.ones(1)},
            ["dropped `total_ops`, `conv.total_params`"],
        ),
        (
            {**W, "bn._extra_state": {"a": torch.ones(1)}, "version": 3},
            ["dropped `bn._extra_state`, `version`, no tensors"],
        ),
        ({"ema": W}, ["took the weights under `ema`", "these are averaged (EMA) weights"]),
    ],
)
def test_a_state_dict_is_found_and_its_finding_told(found: Any, notes: list[str]) -> None:
    state, told = find_weights(found)
    assert weights_hash(state) == weights_hash(W)
    assert set(state) == set(W)
    assert len(told) == len(notes)
    assert all(note.startswith(start) for note, start in zip(told, notes, strict=True)), told


@pytest.mark.parametrize("key", ["ema", "model_ema", "state_dict_ema", "ema_state_dict"])
def test_an_average_is_told_and_can_be_asked_for(key: str) -> None:
    found = {"model": W, key: {"module": EMA}}
    state, notes = find_weights(found)
    assert weights_hash(state) == weights_hash(W)
    assert f"there is an EMA copy too (`{key}.module`): `--weights ema`" in notes
    assert weights_hash(find_weights(found, "ema")[0]) == weights_hash(EMA)
    assert weights_hash(find_weights(found, key)[0]) == weights_hash(EMA)


def test_a_key_or_a_prefix_chooses() -> None:
    gan = {"generator": W, "discriminator": EMA}
    assert weights_hash(find_weights(gan, "discriminator")[0]) == weights_hash(EMA)
    joint = {"state_dict": {**prefixed("encoder."), "loss.weight": torch.ones(3)}}
    state, notes = find_weights(joint, "encoder.")
    assert weights_hash(state) == weights_hash(W)
    assert notes[-1] == "took the 9 of 10 keys with prefix `encoder.`"


def test_a_prefix_of_some_keys_stays() -> None:
    mixed = {**prefixed("model."), "loss.weight": torch.ones(3)}
    assert set(find_weights(mixed)[0]) == set(mixed)


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        ([1, 2], "auto", "it holds a list, not a state dict"),
        (torch.ones(3), "auto", "it holds a Tensor"),
        (3, "auto", "it holds a int"),
        ({}, "auto", "no tensors under a name: there is nothing"),
        ({"epoch": 3, "lr": 0.1}, "auto", "there is `epoch`, `lr`"),
        ({3: torch.ones(2)}, "auto", "no tensors under a name: there is `3`"),
        ({"optimizer": optimizer_state()}, "auto", "there is `optimizer`"),
        ({"a": {"b": {"c": {"d": W}}}}, "auto", "no tensors under a name"),
        ({"G": W, "D": W}, "auto", "several sets of weights; choose one of `G`, `D`"),
        ({"model": {"G": W, "D": W}}, "auto", "choose one of `model.G`, `model.D`"),
        (W, "ema", "no weights under `ema`; there is one state dict, without a name"),
        ({"model": W}, "ema", "no weights under `ema`; there is `model`"),
        ({"ema": W, "model_ema": W}, "ema", "choose one of `ema`, `model_ema`"),
        ({"model": W}, "net", "no weights under `net`; there is `model`"),
        (W, "head.", "no name in it starts with `head.`"),
        ({"w": torch.ones(2, 2).to_sparse()}, "auto", "`w` is sparse"),
        ({"w": torch.empty(2, device="meta")}, "auto", "without values"),
    ],
)
def test_what_is_no_state_dict_is_refused(found: Any, wanted: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        find_weights(found, wanted)
    assert "\n" not in str(caught.value)


def write_gzip(state: Any, path: Path) -> None:
    torch.save(state, path)
    path.write_bytes(gzip.compress(path.read_bytes()))


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "gzip": write_gzip,
    "safetensors": safetensors.torch.save_file,
}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".pkl", ".bin", ".safetensors", ""])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_format_is_read_from_the_bytes(writer: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    WRITERS[writer](W, path)
    loaded = load_checkpoint(str(path))
    assert loaded.hash == weights_hash(W)
    assert loaded.status == "unknown"
    assert loaded.config is None
    assert (loaded.notes != ()) == (writer == "gzip")


def test_the_hash_sees_a_name_a_bit_a_dtype_and_a_shape() -> None:
    w = torch.tensor([1.0, 2.0])
    others = [
        {"b": w},
        {"a": torch.tensor([1.0, 2.0000002])},
        {"a": w.double()},
        {"a": w.view(1, 2)},
        {"a": w, "b": w},
        {"a": w.to(torch.bfloat16)},
        {"a": torch.tensor(1.0)},
    ]
    assert len({weights_hash(other) for other in [{"a": w}, *others]}) == 8
    assert weights_hash({"a": w}) == weights_hash({"module.a": torch.stack([w, w], 1)[:, 0]})
    assert weights_hash({"a": w, "b": w}) == weights_hash({"b": w, "a": w})


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(W, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(tmp_path / "a.pt").hash == weights_hash(W)


def test_half_precision_is_told_and_converted(tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in W.items()}
    torch.save(half, tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.notes == ("8 tensors are in half precision or less (float16)",)
    model = Net()
    assert load_weights(model, loaded.weights) == (
        "converted 8 tensors from torch.float16 to torch.float32",
    )
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.fc.weight, half["fc.weight"].float())


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: nn.ModuleDict({"model": net})])
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_wrappers_on_either_side_do_not_matter(wrap: Any, prefix: str) -> None:
    net = Net()
    load_weights(wrap(net), prefixed(prefix))
    assert all(torch.equal(tensor, W[name]) for name, tensor in net.state_dict().items())


def test_old_files_may_lack_the_counters_of_batchnorm() -> None:
    old = {k: v for k, v in W.items() if "num_batches" not in k}
    assert load_weights(Net(), old) == (
        "the file has no `bn.num_batches_tracked`, which curvature doesn't need",
    )


def test_one_name_of_tied_weights_is_enough() -> None:
    model, w = Tied(), torch.randn(6, 3, generator=seeded(0))
    assert load_weights(model, {"embed.weight": w}) == ("`head.weight` is tied to `embed.weight`",)
    assert torch.equal(model.head.weight, w)
    assert load_weights(model, {"embed.weight": w, "head.weight": w.clone()}) == ()
    with pytest.raises(ValueError, match=r"ties `embed.weight`, `head.weight`, but they differ"):
        load_weights(model, {"embed.weight": w, "head.weight": w + 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, "of its 9 tensors, 1 missing (fc.bias)."),
        ({"fc2.bias": torch.ones(2)}, "1 unexpected (fc2.bias)."),
        ({"fc.bias": torch.ones(7)}, "1 of another shape (fc.bias: (7,), not (5,))."),
        ({"fc.bias": None, "b": torch.ones(1)}, "1 missing (fc.bias); 1 unexpected (b)."),
        (dict.fromkeys(W), "8 missing (conv.weight, conv.bias, bn.weight, …)"),
        ({"fc.bias": torch.ones(5, dtype=torch.int8)}, "1 of another kind (fc.bias: torch.int8"),
        ({"a\nb": torch.ones(1)}, "unexpected (a?b)"),
    ],
)
def test_a_mismatch_is_listed_and_the_model_unchanged(change: Any, message: str) -> None:
    given = {k: v for k, v in {**W, **change}.items() if v is not None}
    model = Net()
    before = weights_hash(model.state_dict())
    with pytest.raises(ValueError) as caught:
        load_weights(model, given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert weights_hash(model.state_dict()) == before


def test_a_mismatch_that_a_prefix_explains_says_so(tmp_path: Path) -> None:
    lightning = {"state_dict": {**prefixed("net."), "criterion.weight": torch.ones(5)}}
    torch.save(lightning, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"All its names are there after `net\.`"):
        load_weights(Net(), load_checkpoint(tmp_path / "a.ckpt").weights)
    load_weights(Net(), load_checkpoint(tmp_path / "a.ckpt", weights="net.").weights)


def test_nan_and_infinity_are_named_and_counted() -> None:
    check_finite(W)
    bad = {**W, "fc.bias": torch.tensor([1.0, float("nan"), float("inf"), 0.0, 0.0])}
    with pytest.raises(FloatingPointError, match=r"weights in `fc.bias` \(2 of 5\): the training"):
        check_finite(bad)
    check_finite({"large": torch.tensor(1e300, dtype=torch.float64)})
    check_finite({"small": torch.ones(3).to(torch.float8_e4m3fn)})
    many = {f"w{i}": torch.tensor(float("inf")) for i in range(5)}
    with pytest.raises(FloatingPointError, match=r"`w2` \(1 of 1\) and 2 more"):
        check_finite(many)


def test_the_shared_checkpoint_loads(real_data: Path) -> None:
    loaded = load_checkpoint(real_data / "checkpoints" / "pyhessian_resnet20_cifar10.pkl")
    assert loaded.notes == ("removed the prefix `module.` from 128 keys",)
    assert loaded.hash == "4a59bc7477d3"
    assert loaded.weights["conv1.weight"].shape == (16, 3, 3, 3)
    check_finite(loaded.weights)


def test_newer_pickle_protocols_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": 1.0}, protocol=5))
    torch.save(W, tmp_path / "b.pt", pickle_protocol=4)
    for name, protocol in (("a.pkl", 5), ("b.pt", 4)):
        with pytest.raises(
            ValueError, match=rf"a pickle of protocol {protocol}, which .* save its"
        ):
            load_checkpoint(tmp_path / name)


def test_names_that_the_model_itself_accepts_are_no_mismatch() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 1)
            self.register_load_state_dict_pre_hook(self.accept)

        def accept(self, module: nn.Module, state: dict, prefix: str, *_: object) -> None:
            for name in [name for name in state if name.startswith("linear.")]:
                state[name.replace("linear", "fc")] = state.pop(name)

    model = Renamed()
    load_weights(model, {"linear.weight": torch.ones(1, 2), "linear.bias": torch.ones(1)})
    assert model.fc.weight.tolist() == [[1.0, 1.0]]
