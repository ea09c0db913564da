"""Our own checkpoints: what goes in comes out, whole files only, damage is refused."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curvature.runs.checkpoint import (
    Checkpoint,
    export_safetensors,
    load_checkpoint,
    save_checkpoint,
)
from curvature.runs.config import RunConfig
from curvature.runs.saved_folders import require_checkpoint
from tests.conftest import seeded


def small_weights() -> dict[str, Tensor]:
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=seeded(0)),
        "bn.num_batches_tracked": torch.tensor(7),
        "fc.weight": torch.randn(10, 4, generator=seeded(1)),
    }


def trained() -> Checkpoint:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return Checkpoint(
        model.state_dict(),
        config=RunConfig(data="cifar10:/data", optimizer="sam", rho=0.1),
        optimizer=optimizer.state_dict(),
        epoch=3,
        step=120,
        metrics={"loss": np.float64(0.25), "correct": np.int64(9), "nested": {"a": [1, None]}},
        random_states={"torch": torch.get_rng_state()},
        versions={"torch": torch.__version__},
        status="running",
    )


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[k], other[k]) for k in one)


def test_everything_comes_back_and_is_plain(tmp_path: Path) -> None:
    saved = trained()
    save_checkpoint(tmp_path / "a.pt", saved)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert same(saved.weights, loaded.weights)
    assert loaded.config == saved.config
    assert (loaded.epoch, loaded.step, loaded.status) == (3, 120, "running")
    assert loaded.metrics == {"loss": 0.25, "correct": 9, "nested": {"a": [1, None]}}
    assert type(loaded.metrics["loss"]) is float
    assert torch.equal(loaded.random_states["torch"], saved.random_states["torch"])
    assert loaded.versions == {"torch": str(torch.__version__)}
    assert loaded.notes == ()
    assert loaded.hash == saved.hash


def test_the_optimizer_resumes_from_its_state(tmp_path: Path) -> None:
    saved = trained()
    save_checkpoint(tmp_path / "a.pt", saved)
    loaded = load_checkpoint(tmp_path / "a.pt")
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.0)
    assert loaded.optimizer is not None
    assert saved.optimizer is not None
    optimizer.load_state_dict(loaded.optimizer)
    assert optimizer.param_groups[0]["momentum"] == 0.9
    moments = [state["momentum_buffer"] for state in saved.optimizer["state"].values()]
    for parameter, moment in zip(model.parameters(), moments, strict=True):
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], moment)


def test_torch_alone_reads_our_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", trained())
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content["config"]["optimizer"] == "sam"


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    large = torch.zeros(100_000)
    save_checkpoint(tmp_path / "a.pt", Checkpoint({"w": large[:3]}))
    assert (tmp_path / "a.pt").stat().st_size < 10_000


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    tied = torch.ones(1000)
    save_checkpoint(tmp_path / "a.pt", Checkpoint({"a": tied, "b": tied}))
    loaded = load_checkpoint(tmp_path / "a.pt").weights
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()


def test_safetensors_export_carries_the_config(tmp_path: Path) -> None:
    saved = trained()
    export_safetensors(tmp_path / "a.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.config == saved.config
    assert loaded.hash == saved.hash
    assert (loaded.epoch, loaded.step, loaded.status) == (3, 120, "running")
    assert loaded.optimizer is None


def test_what_is_not_plain_is_refused_by_its_place(tmp_path: Path) -> None:
    bad = Checkpoint(small_weights(), metrics={"a": {"b": [object()]}})
    with pytest.raises(TypeError, match=r"`metrics\['a'\]\['b'\]\[0\]` is a object"):
        save_checkpoint(tmp_path / "a.pt", bad)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", Checkpoint(small_weights()))
    before = (tmp_path / "a.pt").read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "a.pt", Checkpoint(small_weights(), metrics={"a": object()}))
    assert (tmp_path / "a.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_the_folder_is_made(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "new" / "er" / "a.pt", Checkpoint(small_weights()))
    assert load_checkpoint(tmp_path / "new" / "er" / "a.pt").status == "done"


def test_the_folder_of_a_run_stands_for_its_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", Checkpoint(small_weights(), epoch=3))
    require_checkpoint(tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").epoch == 3


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    torch.save({"curvature_format": 2, "weights": small_weights()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: written in format 2 by a newer version"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curvature_format": "1"}, "not a format's number"),
        ({"curvature_format": 0}, "not a format's number"),
        ({"weights": 3}, "its `weights` is a int"),
        ({"weights": {}}, "not all named tensors, or there are none"),
        ({"weights": {"a": 3.0}}, "not all named tensors"),
        ({"weights": {3: torch.ones(1)}}, "not all named tensors"),
        ({"config": {"speed": 3}}, "no field 'speed'"),
        ({"config": {"speed": 3, 4: 5}}, "no field 4, 'speed'"),
        ({"config": {"lr": -1.0}}, "lr"),
        ({"config": [1]}, "its `config` is a list"),
        ({"epoch": "three"}, "its `epoch` is a str"),
        ({"status": None}, "its `status` is a NoneType"),
        ({"optimizer": {}}, "no optimizer's state dict"),
        ({"optimizer": {"state": 3, "param_groups": []}}, "no optimizer's state dict"),
        ({"optimizer": {"state": {0: 3}, "param_groups": []}}, "no optimizer's state dict"),
        ({"optimizer": {"state": {}, "param_groups": [3]}}, "no optimizer's state dict"),
        ({"optimizer": {"state": {}, "param_groups": "x"}}, "no optimizer's state dict"),
        ({"random_states": {"torch": 3}}, "`random_states` are not all tensors"),
    ],
)
def test_an_edited_file_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    save_checkpoint(tmp_path / "a.pt", Checkpoint(small_weights()))
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save(content | change, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tmp_path / "b.pt")
    assert "\n" not in str(caught.value)


def test_ours_has_no_ema(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", Checkpoint(small_weights()))
    with pytest.raises(ValueError, match="one set of weights, none under `ema`"):
        load_checkpoint(tmp_path / "a.pt", weights="ema")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(small_weights(), buffer)
    data = buffer.getvalue()
    for length in range(1, len(data), 37):
        (tmp_path / "a.pt").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"a\.pt") as caught:
            load_checkpoint(tmp_path / "a.pt")
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_never_changes_a_weight_unnoticed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", Checkpoint(small_weights()))
    data = (tmp_path / "a.pt").read_bytes()
    sound = load_checkpoint(tmp_path / "a.pt").hash
    draw = random.Random(0)
    messages = []
    for _ in range(300):
        position = draw.randrange(len(data))
        damaged = bytearray(data)
        damaged[position] ^= 1 << draw.randrange(8)
        (tmp_path / "b.pt").write_bytes(damaged)
        try:
            assert load_checkpoint(tmp_path / "b.pt").hash == sound  # in padding, say
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)
