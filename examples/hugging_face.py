"""A Hugging Face language model on padded sentences, by the loss that it was trained with.

python examples/hugging_face.py
"""

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2Config, GPT2LMHeadModel

import curvature

sentences = ["a flat minimum", "a sharp one", "saddles are everywhere", "how flat is it"]
letters = sorted(set("".join(sentences)))
coded = [torch.tensor([letters.index(c) for c in sentence]) for sentence in sentences]
batch = {
    "input_ids": pad_sequence(coded, batch_first=True),
    "attention_mask": pad_sequence([torch.ones_like(c) for c in coded], batch_first=True),
    "labels": pad_sequence(coded, batch_first=True, padding_value=-100),
}
config = GPT2Config(
    vocab_size=len(letters),
    n_embd=8,
    n_layer=1,
    n_head=2,
    bos_token_id=0,
    eos_token_id=0,
    n_positions=32,
)
model = GPT2LMHeadModel(config)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(100):
    optimizer.zero_grad()
    model(**batch).loss.backward()
    optimizer.step()

H = curvature.hessian(model, "next_token", batch, batch_size=2)
print(f"loss {H.risk.value:.5f} over {H.risk.survey.weight:.0f} letters")
print("Tr(H) =", curvature.trace(H, rtol=0.05))
print("λ_max =", curvature.eigmax(H))
