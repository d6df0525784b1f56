"""``export/bundle.schema.json`` and the reader agree."""

from __future__ import annotations

import json
from pathlib import Path

import bundles
import jsonschema
import pytest

from edgemm.runtime.errors import BundleError
from edgemm.runtime.manifest import Manifest

SCHEMA = json.loads((Path(__file__).parents[2] / "export" / "bundle.schema.json").read_text())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_real_manifests_fit_the_schema(tmp_path: Path) -> None:
    for make in (bundles.dual_encoder, bundles.fusion_classifier, bundles.audio_and_sensor, bundles.regression):
        jsonschema.validate(make(tmp_path / make.__name__).to_json(), SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 3),
        (["extra"], 1),
        (["parts", 0, "role"], "towr"),
        (["targets", 0, "engine"], "tflite"),
        (["inputs", "image", "kind"], "video"),
        (["inputs", "text", "tokenizer"], "../x"),
        (["outputs", "image_embedding"], {"kind": "classes", "labels": "/abs"}),
        (["outputs", "image_embedding"], {"kind": "classes", "labels": "a//b"}),
        (["outputs", "image_embedding"], {"kind": "classes", "labels": "C:x"}),
        (["outputs", "image_embedding"], {"kind": "classes", "labels": "manifest.json"}),
        (["outputs", "image_embedding"], {"kind": "classes", "independent": 1}),
        (["outputs", "image_embedding"], {"kind": "quantity", "spread": 0}),
        (["outputs", "image_embedding"], {"kind": "embedding", "space": ""}),
        (["outputs", "image_embedding"], {"kind": "values", "space": "joint"}),
        (["outputs", "image_embedding", "kind"], "logits"),
        (["outputs"], {}),
        (["galleries", "joint"], {"embeddings": "x.npy"}),
        (["labels"], None),
    ],
)
def test_what_the_schema_refuses_the_reader_refuses(tmp_path: Path, path: list, value: object) -> None:
    made = bundles.dual_encoder(tmp_path / "b").to_json()
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, SCHEMA)
    with pytest.raises(BundleError):
        Manifest.from_json(made)
