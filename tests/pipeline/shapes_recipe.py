"""A small real recipe: drawn pictures with names, towers of a few thousand weights, every stage of the corridor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "yellow": (230, 210, 50)}
SHAPES = ("circle", "square", "bar", "cross")
WORDS = (*COLOURS, *SHAPES, "a")
VOCABULARY = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
REVERSED = {token: i for i, token in enumerate(reversed(VOCABULARY))}


def draw(colour: str, shape: str, rng: np.random.Generator) -> Image.Image:
    """A 40 x 40 picture of one shape, a little shifted."""
    image = Image.new("RGB", (40, 40), (250, 250, 250))
    pen = ImageDraw.Draw(image)
    x, y = (int(v) for v in rng.integers(4, 12, size=2))
    fill = tuple(int(np.clip(c + rng.integers(-15, 16), 0, 255)) for c in COLOURS[colour])
    if shape == "circle":
        pen.ellipse((x, y, x + 22, y + 22), fill=fill)
    elif shape == "square":
        pen.rectangle((x, y, x + 22, y + 22), fill=fill)
    elif shape == "bar":
        pen.rectangle((x, y + 8, x + 26, y + 14), fill=fill)
    else:
        pen.line((x, y, x + 22, y + 22), fill=fill, width=5)
        pen.line((x, y + 22, x + 22, y), fill=fill, width=5)
    return image


def write_data(folder: Path, *, each: int = 4) -> Path:
    """Pictures and ``samples.jsonl``: ``each`` of every colour and shape to train on, one to test."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for colour in COLOURS:
        for shape in SHAPES:
            for index in range(each + 1):
                name = f"{colour}-{shape}-{index}.png"
                draw(colour, shape, rng).save(folder / name)
                text = f"a {colour} {shape}"
                split = "test" if index == each else "train"
                rows.append({"image": name, "text": text, "label": text, "group": colour, "split": split})
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_text_weights(folder: Path, *, vocabulary: Mapping[str, int] = VOCABULARY, seed: int = 0) -> Path:
    """A two-layer BERT of width 16 in Hugging Face's files, so that a text tower has weights and a tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    torch.manual_seed(seed)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder, safe_serialization=True)
    return _write_wordpieces(folder, vocabulary)


def _write_wordpieces(folder: Path, vocabulary: Mapping[str, int] = VOCABULARY) -> Path:
    tokenizer = Tokenizer(models.WordPiece(dict(vocabulary), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_clip(folder: Path) -> Path:
    """A CLIP of width 16 with random weights in Hugging Face's files, whose embeddings are as wide as the student's."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    vocabulary = {token: i for i, token in enumerate(["<unk>", "<pad>", "<s>", "</s>", *WORDS])}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {
        **sizes, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3,
        "pad_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    # bilinear (2): the exporter takes five times as long over the sizes of CLIP's own bicubic crop
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32, resample=2).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_blip(folder: Path) -> Path:
    """A BLIP for retrieval of width 16 with random weights in Hugging Face's files, which embeds and matches."""
    import torch
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor

    sizes = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "initializer_range": 0.2,  # of BLIP's own, 1e-10, all images are one
    }  # fmt: skip
    text = {
        **sizes, "vocab_size": len(VOCABULARY), "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 2,
        "sep_token_id": 3,
    }  # fmt: skip
    torch.manual_seed(0)
    config = BlipConfig(
        text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}, image_text_hidden_size=16
    )
    BlipForImageTextRetrieval(config).save_pretrained(folder)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return _write_wordpieces(folder)


def write_pairs(folder: Path) -> Path:
    """Pictures and ``pairs.csv``: each once with a text that says what it shows, once with one that doesn't."""
    write_data(folder)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    path = folder / "pairs.csv"
    lines = ["image,text,label,split"]
    for index, row in enumerate(rows):
        other = rows[(index + 7) % len(rows)]["text"]
        lines += [f"{row['image']},{text},{label},{row['split']}"
                  for text, label in ((row["text"], "match"), (other, "no match"))]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


RECIPE = """
name = "shapes"
family = "dual-encoder"
seed = 1
threads = 1

[data]
kind = "table"
root = "data/samples.jsonl"

[teacher]
embed_dim = 16
projection = "tower"
[teacher.image]
input_size = 32
stem = 8
blocks = [1, 1]
channels = [8, 16]
features = 32
[teacher.text]
weights = "folder:text"
max_tokens = 8

[student]
embed_dim = 16
[student.image]
input_size = 32
stem = 8
blocks = [1]
channels = [8]
features = 16
[student.text]
layers = 1
width = 16
heads = 2
ffn = 32
max_tokens = 8

[teach]
epochs = 12
batch = 32
learning_rate = 3e-3
freeze = "none"

[distill]
epochs = 12
batch = 32
learning_rate = 3e-3

[prune]
ratios = { image = 0.25 }
epochs = 2
batch = 32
round_to = 4

[capture]
samples = 4

[quantize]
samples = 16
rollback = false

[measure]
seconds = 0.2
runs = 64
cold_starts = 1
examples = 2

[pack]
golden = 2
licence = "made for a test"

[[targets]]
name = "cpu-int8"
engine = "onnxruntime"
precision = "int8"
threads = 1
"""


def write_recipe(folder: Path, *, each: int = 4) -> Path:
    """Data, text weights and ``recipe.toml`` in a folder; returns the recipe."""
    write_data(folder / "data", each=each)
    write_text_weights(folder / "text")
    path = folder / "recipe.toml"
    path.write_text(RECIPE)
    return path
