"""A Hugging-Face-style model by factory: keyword inputs, an output with ``.logits``, padding.

From Python, `python examples/language_model.py`; from the command line, in this folder,

    curv analyze FILE --model language_model:factory --data language_model:batches \
        --loss language_model:loss --trace --eigmax
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import curvature

VOCABULARY, WIDTH, LENGTH, PADDING = 20, 16, 8, -100


@dataclass
class Output:
    logits: Tensor


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight  # tied

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Output:
        causal = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1]).isinf()
        hidden = self.block(self.embedding(input_ids), causal, attention_mask == 0)
        return Output(self.head(hidden))


def factory() -> LanguageModel:
    return LanguageModel()


def batches(seed: int = 0) -> list[dict[str, Tensor]]:
    """Sentences of different lengths: what is padding in the labels counts for nothing."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for rows in (6, 6, 3):
        ids = torch.randint(VOCABULARY, (rows, LENGTH), generator=generator)
        lengths = torch.randint(3, LENGTH + 1, (rows, 1), generator=generator)
        mask = (torch.arange(LENGTH) < lengths).long()
        labels = ids.roll(-1, 1).masked_fill(torch.arange(LENGTH) >= lengths - 1, PADDING)
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found


def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mean over the tokens that count, and how many they are."""
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    labels = batch["labels"]
    mean = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PADDING)
    return mean, (labels != PADDING).sum()


if __name__ == "__main__":
    torch.manual_seed(0)
    H = curvature.hessian(factory(), loss, batches())
    trace, top = curvature.trace(H, rtol=0.05), curvature.eigmax(H)
    print(f"{H.size:,} parameters, loss {H.risk.value:.4f} over {H.risk.survey.weight:.0f} tokens")
    print(f"Tr(H) = {trace.value:.4g} ± {trace.standard_error:.2g}, λ_max = {top.value:.5g}")
