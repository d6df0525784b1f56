"""Bad input of every family and source: what spoils a copy of the ground, what is asked then, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.data.media import npy, png, write

Spoil = Callable[[Path], None]

IMAGE = "image = { input_size = 32, stem = 8, blocks = [1], channels = [8], features = 16 }"
TEXT = "text = { layers = 1, width = 16, heads = 2, ffn = 32, max_tokens = 8 }"
TEXT_WITH_WEIGHTS = 'text = { weights = "folder:text", max_tokens = 8 }'
AUDIO = "audio = { stem = 8, blocks = [1], channels = [8], features = 16, longest_s = 0.5, mels = 16 }"
HEARING = (IMAGE, TEXT_WITH_WEIGHTS, AUDIO), (IMAGE, TEXT, AUDIO)
RECIPE = """
name = "other"
family = "{family}"
task = "{task}"
threads = 1

[data]
{data}

[teacher]
embed_dim = 16
{teacher}

[student]
embed_dim = 16
{student}
"""


def recipe(
    family: str = "fusion-classifier",
    *,
    teacher: tuple[str, ...] = (IMAGE,),
    student: tuple[str, ...] = (IMAGE,),
    data: str = 'kind = "table"\nroot = "rows.jsonl"',
    task: str = "single-label",
) -> Spoil:
    """Another recipe in the place of the first."""

    def spoil(place: Path) -> None:
        text = RECIPE.format(
            family=family, task=task, data=data, teacher="\n".join(teacher), student="\n".join(student)
        )
        (place / "recipe.toml").write_text(text)

    return spoil


def table(**columns: object) -> Spoil:
    """``rows.jsonl`` of eight pictures, the last two to test, with further columns: values, or what makes them."""

    def spoil(place: Path) -> None:
        lines = []
        for number in range(8):
            write(place / "rows" / f"{number}.png", png(30 * number))
            row = {"image": f"rows/{number}.png", "split": "test" if number > 5 else "train"}
            more = {name: made(number) if callable(made) else made for name, made in columns.items()}
            lines.append(json.dumps({**row, **more}) + "\n")
        (place / "rows.jsonl").write_text("".join(lines))

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(place: Path) -> None:
        for one in spoils:
            one(place)

    return spoil


def parity(number: int) -> str:
    return "even" if number % 2 == 0 else "odd"


def hugging_face(change: Callable[[Path], object]) -> Spoil:
    """A ViT of width 16 in Hugging Face's files, changed, as the recipe's image tower."""

    def spoil(place: Path) -> None:
        import torch
        from transformers import ViTConfig, ViTImageProcessor, ViTModel

        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(place / "vit")
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place / "vit")
        change(place / "vit")
        table(label=parity)(place)
        recipe(teacher=('image = { weights = "hf:vit" }',))(place)

    return spoil


def setting(file: str, **fields: object) -> Callable[[Path], object]:
    """Fields of a JSON file."""

    def change(folder: Path) -> None:
        known = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**known, **fields}))

    return change


def other_classes(place: Path) -> None:
    """A classifier of other classes than the data's, saved by edgemm, as the recipe's teacher."""
    from edgemm.models.builders import build_model
    from edgemm.models.store import save_model
    from edgemm.recipe import load_recipe
    from edgemm.runtime.outputs import Classes

    table(label=parity)(place)
    recipe()(place)
    section = load_recipe(place / "recipe.toml").teacher
    answer = Classes(("even", "uneven"))
    save_model(build_model(section, family="fusion-classifier", answer=answer, seed=0), place / "classifier")
    recipe(teacher=('source = "folder:classifier"',))(place)


def file(name: str, data: bytes) -> Spoil:
    def spoil(place: Path) -> None:
        write(place / name, data)

    return spoil


def sensor(width: int) -> str:
    return f"tensors = {{ sensor = {{ shape = [{width}] }} }}"


RUN = ("run", "recipe.toml")
TABLE = 'kind = "table"\nroot = "rows.jsonl"\n'
CASES: dict[str, tuple[Spoil, tuple[str, ...], str]] = {
    "an embedder of two towers": (
        recipe("embedder", teacher=('source = "folder:model"',), student=(IMAGE, TEXT)), RUN,
        "student: names 2 towers (image, text), an embedder has 1 tower: [student.image], [student.text], ",
    ),
    "one picture of each identity": (
        both(table(label=str), recipe("embedder")), RUN,
        "split 'test': 2 image samples of 2 identities; verification needs two identities (labels) at least, and two "
        "samples of one",
    ),
    "a single class": (
        both(table(label="even"), recipe()), RUN,
        "every training sample is of class 'even'; a classifier needs two at least",
    ),
    "classes that are spelt otherwise to test": (
        both(table(label=lambda number: f"{parity(number)} " if number < 6 else parity(number).upper()), recipe()), RUN,
        "split 'test': no sample is of a class that a training sample has; expected the same classes, spelt the same",
    ),
    "weights that don't fit the student, before a teacher is taught": (
        both(
            table(label=parity),
            recipe(student=('image = { weights = "package:efficientnet-lite0", depth = 2.0, input_size = 32 }',)),
        ), RUN, "student.image: image weights: stage 2: blocks 4, and the checkpoint has 2",
    ),
    "weights of the student that are none": (
        both(table(label=parity), recipe(student=('image = { weights = "package:efficientnet-lite9" }',))), RUN,
        "student.image: image weights: got 'package:efficientnet-lite9', expected package:efficientnet-lite0, ",
    ),
    "no column of values": (
        both(table(label=parity), recipe(task="regression")), RUN,
        "split 'test': no sample has a value, which a regression is measured by; is the column called otherwise? "
        'data.columns = { value = "..." } maps it',
    ),
    "a value that is no number": (
        both(table(value=lambda number: "12,5" if number == 3 else number), recipe(task="regression")), RUN,
        "rows.jsonl, row 4: value: got '12,5', expected a finite number; mend it, or raise data.max_broken",
    ),
    "a row without its labels": (
        both(table(labels=lambda number: None if number == 3 else [parity(number)]), recipe(task="multi-label")), RUN,
        "rows.jsonl, row 4: labels is empty; [] says that no class is right; mend it, or raise data.max_broken",
    ),
    "one label where several are asked for": (
        both(table(label=parity), recipe(task="multi-label")), RUN,
        "split 'test': no sample has labels, which a multi-label classifier is measured by; is the column called "
        'otherwise? data.columns = { labels = "..." } maps it',
    ),
    "no sound for three modalities": (
        both(table(label=parity, text="a red bar"), recipe(teacher=HEARING[0], student=HEARING[1])), RUN,
        "rows.jsonl: no sample has 'audio', and the recipe's models take image and text and audio; add a column "
        "'audio', or name yours, data.columns.audio = \"YOURS\"",
    ),
    "a sound that is text": (
        both(
            table(label=parity, text="a red bar", audio="rows/hum.wav"), file("rows/hum.wav", b"hello"),
            recipe(teacher=HEARING[0], student=HEARING[1]),
        ), RUN, "train sample '1': rows/hum.wav: not a sound file that libsndfile knows, or corrupt",
    ),
    "a sound that is the picture": (
        both(
            table(label=parity, text="a red bar", audio="rows/0.png"), recipe(teacher=HEARING[0], student=HEARING[1]),
        ), RUN, "train sample '1': rows/0.png: not a sound file that libsndfile knows, or corrupt",
    ),
    "a sensor of another width": (
        both(
            table(label=parity, sensor="rows/sensor.npy"), file("rows/sensor.npy", npy([1.0, 2.0])),
            recipe(data=TABLE + 'tensors = ["sensor"]', teacher=(sensor(3),), student=(sensor(2),)),
        ), RUN, "teacher.tensors.sensor.shape: got [3], and sample '1' has [2]; make them equal",
    ),
    "Hugging Face's folder without its config": (
        hugging_face(lambda folder: (folder / "config.json").unlink()), RUN,
        "hf:vit: config.json is missing in vit; is the model's folder complete?",
    ),
    "Hugging Face's model of another type": (
        hugging_face(setting("config.json", model_type="sam")), RUN,
        "hf:vit: model type 'sam' as image tower is not supported; expected one of vit, ",
    ),
    "Hugging Face's frontend that has no graph": (
        hugging_face(setting("preprocessor_config.json", resample=5)), RUN,
        "preprocessor_config.json: can't compile resample = 5; expected 0 (nearest), 2 (bilinear) or 3 (bicubic)",
    ),
    "a name of the hub's that is none": (
        recipe(data='kind = "datasets"\nname = "nothing"'), RUN,
        "data.name: got 'nothing', expected OWNER/NAME on the hub, or imagefolder, audiofolder, webdataset, ",
    ),
    "a column that isn't there": (
        both(table(label=parity), recipe(data=TABLE + 'columns = { label = "state" }')), RUN,
        "rows.jsonl: no column 'state'; it has image, label, split",
    ),
    "a column of ours misspelt": (
        both(table(label=parity), recipe(data=TABLE + 'columns = { clutser = "label" }')), RUN,
        "data.columns: unknown 'clutser'; did you mean 'cluster'?",
    ),
    "a teacher of other classes": (
        other_classes, RUN,
        "teacher.source 'folder:classifier': its 2 classes are not the data's 2; 'odd' is in only one of them",
    ),
}  # fmt: skip
