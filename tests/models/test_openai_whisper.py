"""OpenAI's Whisper checkpoints: their encoder, written out here once more in OpenAI's own layout, is the tower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.models.huggingface import encoder_from_hub
from edgemm.models.openai_whisper import write_hugging_face
from edgemm.runtime.errors import ModelError

DIMS = {
    "n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 2, "n_vocab": 30,
    "n_text_ctx": 8, "n_text_state": 16, "n_text_head": 2, "n_text_layer": 1,
}  # fmt: skip


class Attention(nn.Module):
    """Keys without bias, as in OpenAI's code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed: Tensor = torch.softmax(q @ k.transpose(-1, -2) / (x.shape[-1] // 2) ** 0.5, -1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, *, cross: bool = False) -> None:
        super().__init__()
        self.attn, self.attn_ln = Attention(width), nn.LayerNorm(width)
        if cross:
            self.cross_attn, self.cross_attn_ln = Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        result: Tensor = x + self.mlp(self.mlp_ln(x))
        return result


class Half(nn.Module):
    """Encoder or decoder; only the encoder is run."""

    def __init__(self, *, decoder: bool) -> None:
        super().__init__()
        width = DIMS["n_audio_state"]
        if decoder:
            self.token_embedding = nn.Embedding(DIMS["n_vocab"], width)
            self.positional_embedding = nn.Parameter(torch.randn(DIMS["n_text_ctx"], width))
            self.blocks = nn.ModuleList([Block(width, cross=True)])
            self.ln = nn.LayerNorm(width)
        else:
            self.conv1 = nn.Conv1d(80, width, 3, padding=1)
            self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
            self.register_buffer("positional_embedding", torch.randn(DIMS["n_audio_ctx"], width))
            self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
            self.ln_post = nn.LayerNorm(width)

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2) + self.positional_embedding
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.ln_post(x)
        return result


@pytest.fixture
def whisper(tmp_path: Path) -> tuple[nn.ModuleDict, Path]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": Half(decoder=False), "decoder": Half(decoder=True)}).eval()
    path = tmp_path / "small.pt"
    torch.save({"dims": DIMS, "model_state_dict": {k: v.half() for k, v in model.state_dict().items()}}, path)
    model.load_state_dict({k: v.half().float() for k, v in model.state_dict().items()})
    return model, path


def test_the_tower_is_the_checkpoints_encoder(whisper: tuple[nn.ModuleDict, Path], tmp_path: Path) -> None:
    model, path = whisper
    write_hugging_face(path, tmp_path / "hf")
    made = encoder_from_hub(str(tmp_path / "hf"), modality="audio", output="tokens")
    mel = torch.randn(1, 80, 3000)
    with torch.no_grad():
        torch.testing.assert_close(made.tower.module(mel), model["encoder"](mel), atol=2e-5, rtol=1e-4)


def test_another_checkpoint_is_one_error(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"other\.pt: not one of OpenAI's Whisper checkpoints"):
        write_hugging_face(tmp_path / "other.pt", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
