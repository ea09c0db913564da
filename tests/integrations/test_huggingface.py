"""Runs of the Hugging Face Trainer with the callback: a classifier, a padded language model."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import curvature
from curvature.tracking import CurvatureTracker
from tests.conftest import seeded

transformers = pytest.importorskip("transformers")

IDS = torch.randint(1, 30, (24, 8), generator=seeded(0))
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def classifier() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=30, hidden_size=16, max_position_embeddings=12, **SIZES
        )
        return transformers.BertForSequenceClassification(config)


def language_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=30,
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=12,
            bos_token_id=0,
            eos_token_id=0,
        )
        return transformers.GPT2LMHeadModel(config)


def examples(words: bool) -> list[dict[str, Tensor]]:
    """Padded at the end, by uneven lengths; labels are the words themselves, or a class."""
    found = []
    for i, ids in enumerate(IDS):
        mask = (torch.arange(8) < 3 + i % 6).long()
        labels = ids.where(mask > 0, -100) if words else torch.tensor(i % 2)
        found.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})
    return found


def batches(words: bool) -> list[dict[str, Tensor]]:
    rows = examples(words)
    parts = [rows[:10], rows[10:]]
    return [{name: torch.stack([r[name] for r in part]) for name in part[0]} for part in parts]


def word_loss(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    """The model's own loss, a mean over the words that it predicts, and how many these are."""
    return model(**batch).loss, (batch["labels"][:, 1:] != -100).sum()


def trained(model: nn.Module, folder: Path, words: bool, *callbacks: Any) -> Any:
    options = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=8,
        learning_rate=0.05,
        optim="sgd",
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=model, args=options, train_dataset=examples(words), callbacks=list(callbacks)
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("words", [False, True], ids=["classifier", "language model"])
def test_the_callback_measures_and_leaves_training_as_it_was(words: bool, tmp_path: Path) -> None:
    from curvature.integrations.huggingface import CurvatureCallback

    make, loss = (language_model, word_loss) if words else (classifier, "cross_entropy")
    callback = CurvatureCallback(loss, batches(words), every=2, budget=40)
    model, plain = make(), make()
    trainer = trained(model, tmp_path, words, callback)
    trained(plain, tmp_path, words)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    tops = [row for row in callback.tracker.rows if row["metric"] == "eigmax"]
    assert [row["step"] for row in tops] == [0, 2, 4]
    H = curvature.hessian(model, loss, batches(words))
    assert tops[-1]["value"] == pytest.approx(curvature.eigmax(H).value, rel=0.02)
    edges = [r["value"] for r in callback.tracker.rows if r["metric"] == "stability_threshold"]
    assert edges == [pytest.approx(40.0)] * 3
    logged = [row for row in trainer.state.log_history if "curvature/eigmax" in row]
    assert [row["curvature/eigmax"] for row in logged] == [row["value"] for row in tops]
    assert [row["step"] for row in logged] == [0, 2, 4]


def test_a_batch_encoding_is_a_batch() -> None:
    plain = batches(words=False)
    encoded = [transformers.BatchEncoding(batch) for batch in plain]
    found = [
        CurvatureTracker(classifier().eval(), "cross_entropy", data, metrics="eigmax").step(0)
        for data in (plain, encoded)
    ]
    assert found[0][0]["value"] == pytest.approx(found[1][0]["value"], rel=1e-5)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "curvature.integrations.huggingface", raising=False)
    wanted = r"pip install 'curvature-toolkit\[transformers\]'"
    with pytest.raises(ModuleNotFoundError, match=wanted):
        importlib.import_module("curvature.integrations.huggingface")
