"""Weights that FSDP, torch.distributed.checkpoint and DeepSpeed leave: read, or said how to."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from curvature.runs.checkpoint import load_checkpoint, load_weights
from curvature.runs.weights import find_weights, weights_hash


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2)))


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    where = f"file://{tmp_path / 'rendezvous'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of FSDP's own deprecated calls
        distributed.init_process_group("gloo", init_method=where, rank=0, world_size=1)
        try:
            yield
        finally:
            distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_fsdp_inside_and_outside(tmp_path: Path) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    plain = net().state_dict()
    model = net()
    model.load_state_dict(plain)
    cpu = torch.device("cpu")
    model[1] = FullyShardedDataParallel(model[1], device_id=cpu, use_orig_params=True)
    whole = FullyShardedDataParallel(model, device_id=cpu, use_orig_params=True)
    full = whole.state_dict()
    named = {name: full[name.replace("_fsdp_wrapped_module.", "")] for name in names_of(whole)}
    assert "_fsdp_wrapped_module.1._fsdp_wrapped_module.0.weight" in named
    torch.save({"model": named}, tmp_path / "named.pt")
    torch.save(full, tmp_path / "full.pt")
    for file in ("named.pt", "full.pt"):
        assert load_checkpoint(tmp_path / file).hash == weights_hash(plain)
    load_weights(net(), named)


@pytest.mark.usefixtures("group")
def test_fully_shard_and_its_folder(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plain = net().state_dict()
    model = net()
    model.load_state_dict(plain)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    torch.save(model.state_dict(), tmp_path / "shards.pt")
    with pytest.raises(ValueError, match=r"holds sharded tensors .*full_state_dict="):
        load_checkpoint(tmp_path / "shards.pt")
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    torch.save(get_model_state_dict(model, options=options), tmp_path / "full.pt")
    assert load_checkpoint(tmp_path / "full.pt").hash == weights_hash(plain)


def test_a_distributed_folder_says_how_to_make_one_file(tmp_path: Path) -> None:
    from torch.distributed import checkpoint

    plain = net().state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is distributed
        checkpoint.save({"model": plain}, checkpoint_id=str(tmp_path / "dcp"))
    with pytest.raises(ValueError, match=r"torch\.distributed\.checkpoint folder") as caught:
        load_checkpoint(tmp_path / "dcp")
    command = str(caught.value).split("`")[1].split()
    assert command[:2] == ["python", "-m"]
    done = [sys.executable, *command[1:-1], str(tmp_path / "model.pt")]
    subprocess.run(done, check=True, capture_output=True)
    assert load_checkpoint(tmp_path / "model.pt").hash == weights_hash(plain)


def test_a_deepspeed_folder_names_its_script(tmp_path: Path) -> None:
    (tmp_path / "zero_to_fp32.py").write_text("")
    with pytest.raises(ValueError, match="a DeepSpeed folder of partitioned weights"):
        load_checkpoint(tmp_path)
    states = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({"module": net().state_dict(), "optimizer": {}, "dp_world_size": 1}, states)
    assert load_checkpoint(states).notes == (
        "took the weights under `module`",
        "left aside `optimizer`, `dp_world_size`",
    )


W: dict[str, Tensor] = {"a.weight": torch.ones(2), "b.weight": torch.ones(3)}
EMA = {name: value + 1 for name, value in W.items()}


def under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("plain", "copy"),
    [("model.", "ema_model."), ("", "model_ema."), ("net.", "net_ema.module."), ("", "ema.")],
)
def test_an_average_beside_the_weights(plain: str, copy: str) -> None:
    both = {**under(plain, W), **under(copy, EMA)}
    found, notes = find_weights({"state_dict": both})
    assert {name.removeprefix("net.") for name in found} == set(W)
    assert all(bool((value == 1).all()) for value in found.values())
    assert any("`--weights ema` takes it" in note for note in notes)
    found, _ = find_weights({"state_dict": both}, "ema")
    assert set(found) == set(W)
    assert all(bool((value == 2).all()) for value in found.values())


def test_a_module_of_that_name_is_no_copy() -> None:
    quantizer = {"ema.codebook": torch.ones(2), "encoder.weight": torch.ones(3)}
    assert set(find_weights(quantizer)[0]) == set(quantizer)
    with pytest.raises(ValueError, match="no weights under `ema`"):
        find_weights(quantizer, "ema")


def test_names_that_would_clash_stay() -> None:
    clash = {"a._orig_mod.w": torch.ones(1), "a.w": torch.zeros(1)}
    assert set(find_weights(clash)[0]) == set(clash)
    inside = {"a._orig_mod.w": torch.ones(1), "b._checkpoint_wrapped_module.w": torch.zeros(1)}
    assert set(find_weights(inside)[0]) == {"a.w", "b.w"}
