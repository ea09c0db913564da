"""The transformer's parts against torch's own layer and against loops by hand."""

import torch
from torch import Tensor, nn

from curvature.models.vit import Attention, Block, Patches, ShiftedPatches
from tests.conftest import seeded

WIDTH, HEADS, MLP, TOKENS = 12, 3, 20, 5


def tokens() -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, generator=seeded(0))


def test_a_block_is_torchs_pre_norm_encoder_layer() -> None:
    block = Block(WIDTH, HEADS, MLP, qkv_bias=True, masked=None)
    layer = nn.TransformerEncoderLayer(
        WIDTH,
        HEADS,
        MLP,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    )
    with torch.no_grad():
        for i, p in enumerate(block.parameters()):
            p.normal_(generator=seeded(i))
    layer.norm1, layer.norm2 = block.norm1, block.norm2
    layer.linear1, layer.linear2 = block.mlp.fc1, block.mlp.fc2
    layer.self_attn.in_proj_weight = block.attn.qkv.weight
    layer.self_attn.in_proj_bias = block.attn.qkv.bias
    layer.self_attn.out_proj = block.attn.proj
    torch.testing.assert_close(block(tokens()), layer(tokens()))


def test_no_token_attends_to_itself_under_locality() -> None:
    attention = Attention(WIDTH, HEADS, qkv_bias=True, masked=2)
    x = tokens()[:, :2]
    values = attention.qkv(x)[..., 2 * WIDTH :]
    torch.testing.assert_close(attention(x), attention.proj(values.flip(1)))


def test_the_learned_temperature_begins_at_the_usual_scale() -> None:
    attention = Attention(WIDTH, HEADS, qkv_bias=True, masked=TOKENS)
    attention.itself.zero_()
    plain = Attention(WIDTH, HEADS, qkv_bias=True, masked=None)
    plain.load_state_dict(attention.state_dict(), strict=False)
    torch.testing.assert_close(attention(tokens()), plain(tokens()))


def test_patches_are_read_row_by_row() -> None:
    patches = Patches(3, 4, WIDTH)
    image = torch.randn(1, 3, 8, 12, generator=seeded(1))
    weight = patches.proj.weight.flatten(1)
    for n in range(6):
        i, j = divmod(n, 3)
        pixels = image[0, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten()
        expected = weight @ pixels + patches.proj.bias
        torch.testing.assert_close(patches(image)[0, n], expected)


def test_shifted_patches_see_one_pixel_over_each_edge() -> None:
    patches = ShiftedPatches(3, 4, WIDTH)
    image = torch.randn(3, 8, 12, generator=seeded(1))
    wide = torch.zeros(3, 10, 14)
    wide[:, 1:-1, 1:-1] = image
    for n in range(6):
        top, left = (1 + 4 * i for i in divmod(n, 3))
        windows = [
            wide[:, top + dy : top + dy + 4, left + dx : left + dx + 4]
            for dy, dx in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))
        ]
        pixels = torch.cat(windows).permute(1, 2, 0).flatten()
        expected = patches.proj(patches.norm(pixels))
        torch.testing.assert_close(patches(image[None])[0, n], expected)
