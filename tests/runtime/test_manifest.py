"""The manifest reads strictly and writes what it read."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import bundles
import pytest

from edgemm.runtime.errors import BundleCorrupt, BundleError
from edgemm.runtime.manifest import ClassesEntry, Gallery, Manifest, output_from_json, output_to_json
from edgemm.runtime.outputs import Embedding, Quantity, Values
from edgemm.runtime.readers import raw_from_json
from edgemm.runtime.signature import Signature


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return bundles.dual_encoder(tmp_path_factory.mktemp("m") / "bundle")


def changed(manifest: Manifest, path: list, value: object) -> dict:
    """The manifest's JSON with one place set; DELETE removes it."""
    made = copy.deepcopy(manifest.to_json())
    place = made
    for key in path[:-1]:
        place = place[key]
    if value is DELETE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return made


DELETE = object()


def test_a_manifest_read_back_is_the_manifest(tmp_path: Path) -> None:
    for make in (bundles.dual_encoder, bundles.fusion_classifier, bundles.audio_and_sensor):
        made = make(tmp_path / make.__name__)
        assert Manifest.from_json(made.to_json()) == made
        assert Manifest.from_bytes(made.to_bytes()) == made
        for part in made.parts:
            assert Signature.from_json(part.signature.to_json()) == part.signature
        for raw in made.inputs.values():
            assert raw_from_json(raw.to_json()) == raw
        for output in made.outputs.values():
            assert output_from_json(output_to_json(output)) == output


def of_format_1(manifest: Manifest, **said: object) -> dict:
    """The manifest as format 1 said it: names of outputs, one list of labels, one task, one gallery."""
    made = manifest.to_json()
    del made["galleries"]
    return made | {"format": 1, "outputs": list(manifest.outputs), "labels": None, "task": None, "gallery": None} | said


@pytest.mark.parametrize(
    ("task", "independent"), [(None, False), ("single-label", False), ("multi-label", True)], ids=str
)
def test_logits_of_format_1_are_classes_with_its_labels(tmp_path: Path, task: str | None, independent: bool) -> None:
    old = of_format_1(bundles.sensor_classifier(tmp_path / "b"), labels="labels.json", task=task)
    assert Manifest.from_json(old).outputs == {"logits": ClassesEntry("labels.json", independent)}


def test_a_value_of_format_1_is_a_quantity(tmp_path: Path) -> None:
    old = of_format_1(bundles.regression(tmp_path / "b"), task="regression")
    assert Manifest.from_json(old).outputs == {"value": Quantity()}


def test_vectors_of_format_1_are_embeddings_that_search_its_gallery(manifest: Manifest) -> None:
    old = of_format_1(manifest, gallery={"embeddings": "gallery.npy", "labels": "gallery.json"})
    found = Manifest.from_json(old)
    assert found.outputs == {"image_embedding": Embedding("joint"), "text_embedding": Embedding("joint")}
    assert found.galleries == {"joint": Gallery("gallery.npy", "gallery.json")}
    assert found == manifest


def test_an_output_of_format_1_with_more_axes_has_no_meaning(manifest: Manifest) -> None:
    old = of_format_1(manifest, outputs=["pixels"], golden_outputs={})
    assert Manifest.from_json(old).outputs == {"pixels": Values()}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"task": "captions"}, "task: got 'captions', expected null or one of single-label, multi-label, regression"),
        ({"labels": 3}, "labels: got int 3"),
        ({"gallery": {"embeddings": "x.npy"}}, "gallery.labels: missing"),
        ({"outputs": ["logits"]}, "outputs: no part makes 'logits'"),
        ({"galleries": {}}, "galleries: unknown key; did you mean 'gallery'?"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_a_wrong_manifest_of_format_1_is_refused_as_ever(manifest: Manifest, said: dict, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(of_format_1(manifest, **said), file="here/manifest.json")
    assert message in str(caught.value)


BAD = [
    (["format"], 3, "format: got version 3, expected at most 2; this bundle needs a newer edgemm"),
    (["format"], "1", "format: got str '1', expected an integer"),
    (["format"], True, "format: got bool True, expected an integer"),
    (["name"], DELETE, "name: missing"),
    (["name"], 3, "name: got int 3, expected a non-empty printable string"),
    (["name"], "a\u0000b", "expected a non-empty printable string"),
    (["famly"], "x", "famly: unknown key; did you mean 'family'?"),
    (["parts"], {}, "parts: got dict {}, expected an array"),
    (["parts"], [], "parts: got none"),
    (["parts", 0], "x", "parts[0]: got str 'x', expected an object"),
    (["parts", 0, "role"], "towr", "parts[0].role: got str 'towr', expected one of ['frontend', 'tower'"),
    (["parts", 0, "parameters"], -1, "parts[0].parameters: got int -1, expected an integer of at least 0"),
    (["parts", 0, "parameters"], 1.5, "parts[0].parameters: got float 1.5"),
    (["parts", 1, "name"], "image_frontend", "parts[1].name: 'image_frontend' is given twice"),
    (["parts", 0, "signature", "inputs"], [], "signature.inputs: got the names []"),
    (["parts", 0, "signature", "inputs", 0, "dtype"], "uint9", "dtype: got str 'uint9'"),
    (["parts", 0, "signature", "inputs", 0, "shape", 0], 0, "shape[0]: got int 0"),
    (["parts", 0, "signature", "inputs", 0, "shape", 0], None, "shape[0]: got NoneType None"),
    (["parts", 0, "signature", "dims", "batch"], [4, 1, 1], "dims.batch: got list [4, 1, 1], expected [min, opt, max]"),
    (["parts", 0, "signature", "inputs", 0, "name"], "pixels", "nothing before it makes its input 'pixels'"),
    (["parts", 1, "signature", "outputs", 0, "name"], "image", "value 'image' is already made by inputs.image"),
    (["inputs", "image", "kind"], "video", "inputs.image.kind: got str 'video'"),
    (["inputs", "text", "max_tokens"], 0, "inputs.text.max_tokens: got int 0"),
    (["inputs", "text", "ids"], "image", "value 'image' is already made by inputs.image"),
    (["inputs", "text", "tokenizer"], "../t.json", "unsafe path '../t.json'"),
    (["outputs"], {}, "outputs: got none"),
    (["outputs"], ["logits"], "outputs: got list ['logits'], expected an object"),
    (["outputs", "logits"], {"kind": "classes"}, "outputs: no part makes 'logits'"),
    (["outputs", "image"], {"kind": "values"}, "outputs: no part makes 'image'"),
    (["outputs", "text_embedding", "kind"], "vector", "outputs.text_embedding.kind: got str 'vector'"),
    (["outputs", "text_embedding"], {"kind": "quantity", "spread": 0}, "text_embedding.spread: got 0.0, expected more"),
    (["outputs", "text_embedding"], {"kind": "quantity", "mean": "x"}, "mean: got str 'x', expected a finite number"),
    (["outputs", "text_embedding"], {"kind": "classes", "independent": 1}, "independent: got int 1, expected true or"),
    (["outputs", "text_embedding"], {"kind": "classes", "labels": "../x"}, "unsafe path '../x'"),
    (["outputs", "text_embedding", "labels"], "l.json", "outputs.text_embedding.labels: unknown key"),
    (["targets"], [], "targets: got none"),
    (["targets", 1, "name"], "cpu", "targets[1].name: 'cpu' is given twice"),
    (["targets", 0, "engine"], "tflite", "targets[0].engine: got str 'tflite'"),
    (["targets", 0, "precision"], "int3", "targets[0].precision: got str 'int3'"),
    (["targets", 0, "files", "image"], DELETE, "target 'cpu' has no file for part 'image'"),
    (["targets", 0, "files", "nose"], "n.onnx", "targets[0].files.nose: no such part"),
    (["targets", 0, "files", "image"], "/etc/passwd", "unsafe path '/etc/passwd'"),
    (["targets", 0, "files", "image"], 7, "targets[0].files.image: got int 7"),
    (["targets", 0, "threads"], "two", "targets[0].threads: got str 'two'"),
    (["golden", 0, "inputs"], {}, "golden[0].inputs: got none"),
    (["golden", 0, "inputs", "smell"], "x", "golden[0].inputs.smell: no such modality"),
    (["golden", 0, "inputs", "image"], "a/../../b", "unsafe path"),
    (["golden_outputs", "gpu"], {"file": "x", "max_abs_error": {}}, "golden_outputs.gpu: no such target"),
    (["golden_outputs", "cpu", "max_abs_error", "zz"], 1, "max_abs_error.zz: no such output"),
    (["golden_outputs", "cpu", "max_abs_error", "text_embedding"], -1, "expected a finite number of at least 0"),
    (["galleries", "joint", "labels"], DELETE, "galleries.joint.labels: missing"),
    (["galleries", "other"], {}, "galleries.other: no output is an embedding of this space; expected one of ['joint']"),
    (["labels"], None, "labels: unknown key"),
    (["task"], None, "task: unknown key"),
    (["provenance"], [], "provenance: got list [], expected an object"),
    (["files", "graphs/image.onnx", "sha256"], "abc", "expected 64 lower-case hex digits"),
    (["files", "graphs/image.onnx", "bytes"], 2**70, "expected an integer of at least 0"),
    (["files", "..\\x"], {"sha256": "0" * 64, "bytes": 1}, "unsafe path"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), BAD, ids=lambda v: ".".join(map(str, v)) if isinstance(v, list) else None
)
def test_a_wrong_manifest_is_one_line_naming_file_and_key(
    manifest: Manifest, path: list, value: object, message: str
) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(changed(manifest, path, value), file="here/manifest.json")
    text = str(caught.value)
    assert text.startswith("here/manifest.json")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_a_manifest_that_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(BundleError, match="expected an object"):
        Manifest.from_json(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": NaN}',
        b'{"a": 1, "a": 2}',
        b'{"format":' + b"9" * 5000 + b"}",
    ],
)
def test_bytes_that_are_no_json_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    "path", ["", "/a", "a//b", "./a", "a/..", "..", "a\\b", "C:a", "a:b", "a\nb", "a/" + "x" * 256, "manifest.json"]
)
def test_an_unsafe_path_is_refused(manifest: Manifest, path: str) -> None:
    with pytest.raises(BundleError):
        Manifest.from_json(changed(manifest, ["galleries", "joint", "labels"], path))


def test_an_unsafe_path_counts_as_corrupt(manifest: Manifest) -> None:
    with pytest.raises(BundleCorrupt):
        Manifest.from_json(changed(manifest, ["galleries", "joint", "labels"], "../x"))


def test_unknown_parts_and_targets_name_the_known_ones(manifest: Manifest) -> None:
    with pytest.raises(BundleError, match=r"no part 'nose'.*image_frontend"):
        manifest.part("nose")
    with pytest.raises(BundleError, match=r"no target 'gpu'.*openvino"):
        manifest.target("gpu")
    assert manifest.target(None).name == "cpu"


def test_half_a_character_is_written_as_json_writes_it(manifest: Manifest) -> None:
    odd = replace(manifest, provenance={"note": "\ud800"})
    assert Manifest.from_bytes(odd.to_bytes(), file="m") == odd


def test_the_json_is_plain(manifest: Manifest) -> None:
    assert json.loads(manifest.to_bytes()) == manifest.to_json()
