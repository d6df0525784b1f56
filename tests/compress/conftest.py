"""A small world: coloured shapes with names, in three styles, as a table on disk and a recipe's sections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgemm.data import Dataset, open_dataset
from edgemm.recipe import DataConfig, StudentSection, TeacherSection

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220), "grey": (128, 128, 128)}
SHAPES = ("square", "bar", "frame")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def picture(colour: str, shape: str, style: int) -> Image.Image:
    """A shape of 20 to 28 pixels on a background that the style decides."""
    size, grey = 40, (255, 230, 205)[style]
    pixels = np.full((size, size, 3), grey, dtype=np.uint8)
    inner = slice(6 + 2 * style, 34 - 2 * style)
    if shape == "bar":
        pixels[16:24, inner] = COLOURS[colour]
    else:
        pixels[inner, inner] = COLOURS[colour]
    if shape == "frame":
        pixels[14:26, 14:26] = grey
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CSV-like JSONL: twelve concepts in three styles; the third style is the split ``unseen``."""
    folder = tmp_path_factory.mktemp("shapes")
    rows = []
    for colour in COLOURS:
        for shape in SHAPES:
            for style in range(3):
                name = f"{colour}-{shape}-{style}.png"
                picture(colour, shape, style).save(folder / name)
                text = f"{colour} {shape}"
                row = {"image": name, "text": text, "label": text, "group": str(style)}
                rows.append({**row, "split": "unseen" if style == 2 else "train"})
    path = folder / "samples.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture(scope="session")
def shapes(table: Path) -> Dataset:
    """Pairs of pictures and names."""
    return open_dataset(DataConfig(kind="table", root=str(table)), cache=table.parent / "cache")


@pytest.fixture(scope="session")
def questions(table: Path) -> Dataset:
    """``what colour``/``what shape`` with the answer as label: no answer without both modalities."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    made = []
    for row in rows:
        colour, shape = row["text"].split()
        for question, answer in (("what colour", colour), ("what shape", shape)):
            made.append({**row, "text": question, "label": answer})
    path = table.with_name("questions.jsonl")
    path.write_text("\n".join(json.dumps(row) for row in made))
    return open_dataset(DataConfig(kind="table", root=str(path)), cache=path.parent / "cache")


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT on disk: config, random weights and a WordPiece tokenizer."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *COLOURS,
        *SHAPES,
        "what",
        "colour",
        "shape",
        "tree",
        "house",
        "a",
        "##a",
    ]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "bert", "hidden_act": "gelu", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4,
        "intermediate_size": 64, "vocab_size": len(words),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    state = {
        "embeddings.word_embeddings.weight": random(len(words), 32),
        "embeddings.position_embeddings.weight": random(16, 32) / 10,
        "embeddings.token_type_embeddings.weight": torch.zeros(2, 32),
        "embeddings.LayerNorm.weight": torch.ones(32),
        "embeddings.LayerNorm.bias": torch.zeros(32),
    }
    for layer in range(2):
        at = f"encoder.layer.{layer}."
        sizes = {
            "attention.self.query": (32, 32), "attention.self.key": (32, 32), "attention.self.value": (32, 32),
            "attention.output.dense": (32, 32), "intermediate.dense": (64, 32), "output.dense": (32, 64),
        }  # fmt: skip
        for name, (rows, columns) in sizes.items():
            state |= {f"{at}{name}.weight": random(rows, columns) / 2, f"{at}{name}.bias": torch.zeros(rows)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            state |= {f"{at}{name}.weight": torch.ones(32), f"{at}{name}.bias": torch.zeros(32)}
    save_file(state, str(folder / "model.safetensors"))
    return folder


IMAGE = {"input_size": 32, "stem": 8, "blocks": [1, 2, 1], "channels": [8, 16, 16], "expand": [1, 3, 3], "features": 32}


@pytest.fixture(scope="session")
def teacher_section(text_folder: Path) -> TeacherSection:
    return TeacherSection.model_validate(
        {
            "embed_dim": 16,
            "image": IMAGE,
            "text": {"weights": f"folder:{text_folder}", "max_tokens": 8},
            "fusion": {"width": 32},
            "head_hidden": 32,
        }
    )


@pytest.fixture(scope="session")
def student_section() -> StudentSection:
    return StudentSection.model_validate(
        {
            "embed_dim": 16,
            "image": {**IMAGE, "blocks": [1, 1, 1]},
            "text": {
                "layers": 1,
                "width": 32,
                "heads": 4,
                "ffn": 64,
                "max_tokens": 8,
                "vocabulary": "trimmed",
                "extra_words": 3,
            },
            "fusion": {"width": 32},
            "head_hidden": 32,
        }
    )
