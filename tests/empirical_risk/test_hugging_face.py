"""Hugging Face's own models and batches, in float64 against differences of the gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvature.empirical_risk import EmpiricalRisk
from curvature.measures.performance import performance
from curvature.measures.trace import trace
from curvature.operators import ggn, hessian
from tests.conftest import seeded
from tests.oracles import hessian_by_differences

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(3, 20, (5, 6), generator=seeded(0))  # none of the special ones
LENGTHS = torch.tensor([6, 4, 5, 2, 3])
MASK = (torch.arange(6) < LENGTHS[:, None]).long()
LABELS = TOKENS.masked_fill(MASK == 0, -100)
SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def encoded(**labels: Tensor) -> list[Any]:
    """What a tokenizer gives, in batches of 3 and 2."""
    whole = {"input_ids": TOKENS, "attention_mask": MASK, **labels}
    return [
        transformers.BatchEncoding({k: v[start:stop] for k, v in whole.items()})
        for start, stop in ((0, 3), (3, 5))
    ]


def made(kind: str, config: str, **options: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**options))
    return model.double().eval()


def language_model() -> nn.Module:
    own = {"n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 12}
    return made(
        "GPT2LMHeadModel", "GPT2Config", vocab_size=20, **own, bos_token_id=1, eos_token_id=2
    )


def weighed(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """The model's own loss, and what it divides by; a BatchEncoding keeps its attributes."""
    return model(**batch).loss, (batch.labels[:, 1:] != -100).sum()


def of_outputs(outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits, y = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return nn.functional.cross_entropy(logits, y, ignore_index=-100), (y != -100).sum()


def by_hand(logits: Tensor) -> Tensor:
    """The model's own loss rounds to float32."""
    log_p = logits[:, :-1].log_softmax(2)
    y = LABELS[:, 1:]
    kept = -log_p.gather(2, y.clamp(min=0)[:, :, None])[:, :, 0][y != -100]
    return kept.mean()


def product_and_oracle(H: Any, value: Any, k: int = 2) -> tuple[Tensor, Tensor]:
    V = torch.randn(H.size, k, generator=seeded(1), dtype=torch.float64)
    HV = H @ V
    return HV, hessian_by_differences(value, H.risk.leaves, V)


def close(found: Tensor, expected: Tensor, rtol: float = 1e-7) -> bool:
    return float((found - expected).norm()) < rtol * float(expected.norm())


@pytest.mark.parametrize(
    ("loss", "rtol"),
    [("next_token", 1e-7), (of_outputs, 1e-7), (weighed, 1e-5)],
    ids=["named", "of outputs", "weighed"],
)
def test_a_padded_language_model_agrees_with_differences_of_its_own_loss(
    loss: Any, rtol: float
) -> None:
    model, batches = language_model(), encoded(labels=LABELS)
    H = hessian(model, loss, batches)

    def value() -> Tensor:
        return by_hand(model(input_ids=TOKENS, attention_mask=MASK).logits)

    found, expected = product_and_oracle(H, value)
    assert close(found, expected, rtol)
    assert H.risk.value == pytest.approx(float(value().detach()))
    assert H.risk.survey.weight == float((LABELS[:, 1:] != -100).sum())


def t5() -> tuple[nn.Module, Any]:
    sizes = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
    eager = {"decoder_start_token_id": 0, "attn_implementation": "eager"}
    model = made("T5ForConditionalGeneration", "T5Config", **sizes, **eager)
    return model, lambda model, b: (model(**b).loss, (b["labels"] != -100).sum())


def llama() -> tuple[nn.Module, Any]:
    eager = {"num_key_value_heads": 1, "attn_implementation": "eager"}
    return made("LlamaForCausalLM", "LlamaConfig", **SIZES, **eager), "next_token"


@pytest.mark.parametrize("make", [llama, t5])
def test_models_that_compute_norms_in_float32_agree_with_autograd_functional(make: Any) -> None:
    """Their rounding is above what differences of a float64 gradient can bear."""
    model, loss = make()
    H = hessian(model, loss, encoded(labels=LABELS), params=["*.q*", "*norm*"])
    names = list(H.risk.params)
    v = torch.randn(H.size, generator=seeded(1), dtype=torch.float64)
    batch = {"input_ids": TOKENS, "attention_mask": MASK, "labels": LABELS}

    def value(*weights: Tensor) -> Tensor:
        named = dict(zip(names, weights, strict=True))
        found: Tensor = torch.func.functional_call(model, named, kwargs=batch).loss
        return found

    weights, vectors = tuple(H.risk.leaves), tuple(H.risk.split(v))
    _, products = torch.autograd.functional.vhp(value, weights, vectors)
    expected = torch.cat([p.reshape(-1) for p in products])
    assert close(H @ v, expected, 1e-5)


def test_a_padded_mean_is_refused_and_what_to_return_is_said() -> None:
    with pytest.raises(ValueError, match=r"padding.*\(mean, weight\)"):
        hessian(language_model(), lambda model, b: model(**b).loss, encoded(labels=LABELS))


def test_the_trace_of_a_language_model_is_split_by_name() -> None:
    G = ggn(language_model(), "next_token", encoded(labels=LABELS), params="*.c_proj.*")
    found = trace(G, method="exact")
    dense = G @ torch.eye(G.size, dtype=G.dtype)
    assert found.value == pytest.approx(float(dense.trace()), rel=1e-9)


def test_a_classifier_of_sequences_has_an_accuracy_whatever_the_loss_is() -> None:
    model = made("BertForSequenceClassification", "BertConfig", **SIZES, num_labels=3)
    y = torch.tensor([0, 2, 1, 1, 0])
    H = hessian(model, "cross_entropy", encoded(labels=y))

    def value() -> Tensor:
        return model(input_ids=TOKENS, attention_mask=MASK, labels=y).loss

    found, expected = product_and_oracle(H, value)
    assert close(found, expected)
    hits = model(input_ids=TOKENS, attention_mask=MASK).logits.argmax(1) == y

    def own(outputs: Any, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits, labels)

    for loss in ("cross_entropy", own):
        found = performance(EmpiricalRisk(model, loss, encoded(labels=y)))
        assert found.accuracy == pytest.approx(float(hits.double().mean()))


def test_one_call_of_a_tokenizer_is_data_by_itself() -> None:
    whole = {"input_ids": TOKENS, "attention_mask": MASK, "labels": LABELS}
    data = transformers.BatchEncoding(whole)
    H = hessian(language_model(), "next_token", data, batch_size=3)
    again = hessian(H.risk.model, "next_token", encoded(labels=LABELS))
    v = torch.ones(H.size, dtype=H.dtype)
    assert len(H.risk.batches) == 2
    torch.testing.assert_close(H @ v, again @ v)


def test_an_image_model_takes_tensors() -> None:
    sizes = {k: v for k, v in SIZES.items() if k.startswith(("hidden", "num", "inter"))}
    model = made("ViTForImageClassification", "ViTConfig", **sizes, image_size=8, patch_size=4)
    x = torch.randn(4, 3, 8, 8, generator=seeded(2), dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0])
    H = hessian(model, "cross_entropy", (x, y))
    found, expected = product_and_oracle(H, lambda: model(pixel_values=x, labels=y).loss)
    assert close(found, expected)
