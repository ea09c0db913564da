"""Hugging Face folders: read offline, with tied weights and plain attention, against oracles."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvature import models
from curvature.analysis import load_subject, operator_of
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.config import AnalysisConfig
from tests.conftest import seeded

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
GPT = transformers.GPT2Config(
    vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=6, bos_token_id=0, eos_token_id=0
)
LLAMA = transformers.LlamaConfig(
    vocab_size=11, intermediate_size=12, tie_word_embeddings=False, pad_token_id=0, **SMALL
)
BERT = transformers.BertConfig(
    vocab_size=11, intermediate_size=12, max_position_embeddings=8, num_labels=3, **SMALL
)


def language() -> list[dict[str, Tensor]]:
    """Padded sentences in batches of 3, 3 and 1; what is padding counts for nothing."""
    generator, found = seeded(0), []
    for rows in (3, 3, 1):
        ids = torch.randint(1, 11, (rows, 6), generator=generator)
        mask = (torch.arange(6) < torch.randint(2, 7, (rows, 1), generator=generator)).long()
        labels = ids.masked_fill(mask == 0, -100)
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found


def classes() -> list[dict[str, Tensor]]:
    return [{**batch, "labels": torch.arange(len(batch["labels"])) % 3} for batch in language()]


def save(folder: Path, kind: Any, config: Any, **how: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=seeded(1))
    model.to(how.pop("dtype", torch.float32)).save_pretrained(folder, **how)
    return folder


def oracle(folder: Path, kind: Any, batches: list[Any], v: Tensor) -> Tensor:
    """Hv by forward over reverse, of Hugging Face's own loss over all that counts."""
    model = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()
    params = dict(model.named_parameters())
    sizes = [p.numel() for p in params.values()]
    causal = batches[0]["labels"].ndim == 2

    def loss(w: Tensor) -> Tensor:
        pieces = zip(params.items(), w.split(sizes), strict=True)
        given = {name: piece.view_as(p) for (name, p), piece in pieces}
        total = weight = torch.zeros(())
        for batch in batches:
            found = torch.func.functional_call(model, given, (), batch, tie_weights=True).loss
            n = (batch["labels"][:, 1:] != -100).sum() if causal else len(batch["labels"])
            total, weight = total + n * found, weight + n
        return total / weight

    w = torch.cat([p.detach().reshape(-1) for p in params.values()])
    return torch.func.jvp(torch.func.grad(loss), (w,), (v,))[1]


CASES: dict[str, tuple[Any, Any, Callable[[], list[Any]], str, dict[str, Any]]] = {
    "tied": (transformers.GPT2LMHeadModel, GPT, language, "next_token", {}),
    "sharded": (
        transformers.GPT2LMHeadModel,
        GPT,
        language,
        "next_token",
        {"max_shard_size": "2KB"},
    ),
    "half": (
        transformers.GPT2LMHeadModel,
        GPT,
        language,
        "next_token",
        {"dtype": torch.bfloat16},
    ),
    "llama": (transformers.LlamaForCausalLM, LLAMA, language, "next_token", {}),
    "classifier": (transformers.BertForSequenceClassification, BERT, classes, "cross_entropy", {}),
}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("case", CASES)
def test_a_folder_alone_is_analysed_as_hugging_face_computes_it(case: str, tmp_path: Path) -> None:
    kind, config, batches, loss, how = CASES[case]
    folder = save(tmp_path / "net", kind, config, **how)
    name = f"tests.models.test_huggingface:{batches.__name__}"
    asked = AnalysisConfig(data=name, dtype="float64", device="cpu")
    subject = load_subject(load_checkpoint(folder), asked)
    assert subject.provenance["loss"] == loss
    assert subject.provenance["model"] == f"hf:{folder}"
    assert ("float64" in " ".join(subject.notes)) == (case == "half")
    H = operator_of(subject, asked)
    v = torch.randn(H.size, generator=seeded(3), dtype=torch.float64)
    expected = oracle(folder, kind, batches(), v)
    # transformers takes norms, softmax and losses of float64 models in float32
    assert float((H @ v - expected).norm()) <= 1e-5 * float(expected.norm())
    if case == "tied":
        assert H.size == sum(p.numel() for p in kind(config).parameters())


def test_weights_from_another_file_are_loaded_into_the_folders_architecture(tmp_path: Path) -> None:
    folder = save(tmp_path / "net", transformers.GPT2LMHeadModel, GPT)
    tuned = {k: v + 1 for k, v in models.build(f"hf:{folder}").state_dict().items()}
    del tuned["lm_head.weight"]  # tied: one name is enough
    torch.save({"state_dict": {f"model.{k}": v for k, v in tuned.items()}}, tmp_path / "tuned.ckpt")
    asked = AnalysisConfig(
        model=f"hf:{folder}", data="tests.models.test_huggingface:language", device="cpu"
    )
    subject = load_subject(load_checkpoint(tmp_path / "tuned.ckpt"), asked)
    state = subject.risk.model.state_dict()
    assert torch.equal(state["lm_head.weight"], tuned["transformer.wte.weight"])
    assert "`lm_head.weight` is tied to `transformer.wte.weight`" in subject.notes


def config_with(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def adapter(folder: Path) -> None:
    no_weights(folder)
    (folder / "adapter_config.json").write_text("{}")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (no_weights, "holds no model.safetensors: save the model again"),
    "an adapter": (adapter, "holds an adapter, not a model: save `model.merge_and_unload"),
    "damaged": (truncated, "safetensors"),
    "quantized": (
        lambda folder: config_with(folder, quantization_config={"bits": 4}),
        "quantized weights, which have no derivatives",
    ),
    "code of its own": (
        lambda folder: config_with(
            folder, architectures=["Mine"], auto_map={"AutoModel": "mine.Mine"}
        ),
        "holds a `Mine`, which transformers .* hasn't, and code in a folder is not run",
    ),
    "another head": (
        lambda folder: config_with(folder, architectures=["GPT2ForSequenceClassification"]),
        r"doesn't have `score.weight` of a GPT2ForSequenceClassification",
    ),
    "no architecture": (
        lambda folder: config_with(folder, architectures=None),
        "doesn't say its `architectures`",
    ),
}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("case", BAD)
def test_what_would_be_wrong_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    spoil, says = BAD[case]
    folder = save(tmp_path / "net", transformers.GPT2LMHeadModel, GPT)
    spoil(folder)
    with pytest.raises(ValueError, match=says) as caught:
        load_subject(
            load_checkpoint(folder),
            AnalysisConfig(
                data="tests.models.test_huggingface:language", loss="next_token", device="cpu"
            ),
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("hf", "needs its folder: write hf:DIR"),
        ("hf:/no/such", "is no folder of save_pretrained"),
        ("hf:/no/such,bits=4", "has no option `bits`"),
    ],
)
def test_a_name_that_is_no_folder_is_refused(spec: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        models.build(spec)


def test_importing_the_models_loads_no_transformers() -> None:
    import subprocess
    import sys

    code = "import sys, curvature.models; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_model_is_left_in_evaluation_without_a_cache(tmp_path: Path) -> None:
    model: nn.Module = models.build(
        f"hf:{save(tmp_path / 'net', transformers.GPT2LMHeadModel, GPT)}"
    )
    assert not model.config.use_cache
    assert model.config._attn_implementation == "eager"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
