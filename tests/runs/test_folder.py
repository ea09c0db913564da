"""The folder of a run: its names, its status, and a config that nobody edited."""

import json
import os
from pathlib import Path

import pytest

from curvature.runs.config import RunConfig
from curvature.runs.files import write_json, write_text, write_whole
from curvature.runs.folder import RunFolder

CONFIG = RunConfig(lr=0.5)


def test_a_folder_bears_the_id_and_brings_the_config_back(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs", CONFIG)
    assert folder.path == tmp_path / "runs" / CONFIG.id
    assert folder.config() == CONFIG
    assert folder.status == "new"
    assert RunFolder.create(tmp_path / "runs", CONFIG) == folder


def test_another_directory_of_the_data_finds_the_same_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, RunConfig(data="cifar10:/a"))
    assert RunFolder.create(tmp_path, RunConfig(data="cifar10:/b")) == folder
    assert folder.config().data == "cifar10:/a"


def test_the_layout(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.checkpoint == tmp_path / "checkpoint.pt"
    assert folder.epoch_checkpoint(10) == tmp_path / "checkpoints" / "epoch-0010.pt"
    assert folder.history == tmp_path / "history.jsonl"
    assert folder.rows("abc") == tmp_path / "rows" / "abc.jsonl"


def test_kept_checkpoints_are_in_the_order_of_epochs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in (20, 3, 12345):
        write_text(folder.epoch_checkpoint(epoch), "")
    write_text(tmp_path / "checkpoints" / "epoch-last.pt", "")
    assert list(folder.epoch_checkpoints()) == [3, 20, 12345]
    assert RunFolder(tmp_path / "none").epoch_checkpoints() == {}


def test_the_status_is_written_and_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.set_status("diverged", epoch=3, message="the loss is nan")
    assert folder.status == "diverged"
    assert json.loads(folder.status_file.read_text())["epoch"] == 3
    with pytest.raises(ValueError, match="`status` is one of new, running"):
        folder.set_status("finished")
    write_json(folder.status_file, {"status": "finished"})
    with pytest.raises(ValueError, match=r"status\.json: the status is one of .*, not `finished`"):
        _ = folder.status


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[]", "it is not an object"),
        ("{}", "has no `config`"),
        ('{"config": {"speed": 1}}', "RunConfig has no field 'speed'"),
        ('{"config": {"lr": "fast"}}', "`lr` is of type float, not str"),
        ('{"config": {"lr": -1}}', "`lr` must be above 0"),
        ('{"id": "abc", "config": {"lr": 0.5}}', "was edited or is of another version"),
    ],
)
def test_an_edited_config_is_refused(text: str, message: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.config_file.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        folder.config()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_config_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run's config at"):
        RunFolder(tmp_path).config()


def test_a_file_that_fails_to_be_written_leaves_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def fail(file: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a", fail)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_device_can_be_written_to_and_a_directory_cannot(tmp_path: Path) -> None:
    write_text("/dev/null", "gone")
    assert not Path("/dev/null").is_file()
    with pytest.raises(IsADirectoryError, match="is a directory; name a file"):
        write_text(tmp_path, "text")


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("a" * 255), "text")
    assert (tmp_path / ("a" * 255)).read_text() == "text"
