"""Open, predict, verify: on real graphs and real engines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bundles
import numpy as np
import pytest

import edgemm.runtime
from edgemm.runtime import Bundle, seal, zip_bundle
from edgemm.runtime.errors import BundleError, EngineError, EngineNotInstalled, InputError
from edgemm.runtime.session import open_session

MISFITS = (
    ((1, 3, 9, 9), "float32"), ((1, 3, 4, 4), "float32"), ((192,), "float32"), ((1, 3, 8, 8), "float64"),
)  # fmt: skip
"""Shapes and dtypes that are not (batch, 3, 8, 8) of float32."""


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("d") / "dual"
    bundles.dual_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def fusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("f") / "fusion"
    bundles.fusion_classifier(folder)
    return folder


@pytest.fixture(scope="module")
def sensing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s") / "sensing"
    bundles.audio_and_sensor(folder)
    return folder


def test_the_public_names_are_these() -> None:
    assert edgemm.runtime.__all__ == [
        "Archive", "Bundle", "BundleCorrupt", "BundleError", "DimRange", "EdgemmError", "EngineError",
        "EngineNotInstalled", "InputError", "Manifest", "Part", "Prediction", "Session", "Signature", "TensorSpec",
        "VerifyReport", "open_archive", "open_session", "seal", "zip_bundle",
    ]  # fmt: skip
    for name in edgemm.runtime.__all__:
        assert getattr(edgemm.runtime, name).__name__ == name
    with pytest.raises(AttributeError, match="Bundel"):
        _ = edgemm.runtime.Bundel


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_bundle_verifies_on_each_engine_as_folder_and_as_zip(dual: Path, tmp_path: Path, target: str) -> None:
    packed = zip_bundle(dual, tmp_path / "dual.zip")
    for path in (dual, packed):
        report = Bundle.open(path, target=target).verify()
        assert report.ok, report.problems
        assert report.samples == 3
        assert set(report.max_abs_error) == {"image_embedding", "text_embedding"}


def test_one_modality_runs_its_own_parts_only(dual: Path) -> None:
    bundle = Bundle.open(dual)
    made = bundle.predict(text="a cat")
    assert set(made.outputs) == {"text_embedding"}
    assert {part.name: part.loaded for part in bundle.parts} == {"image_frontend": False, "image": False, "text": True}


def test_a_batch_is_its_samples_one_by_one_even_where_sizes_differ(dual: Path) -> None:
    bundle = Bundle.open(dual)
    images = [bundles.png(i, size) for i, size in enumerate([(12, 10), (30, 7), (12, 10), (5, 90), (8, 8), (9, 9)])]
    texts = ["a cat", "what is this red house ?", "sky", "a", "dog", "blue"]
    together = bundle.predict(image=images, text=texts)
    alone = [bundle.predict(image=image, text=text) for image, text in zip(images, texts, strict=True)]
    for name, value in together.outputs.items():
        # Padding changes the order of sums only: a few float32 roundings of values below 1.
        np.testing.assert_allclose(value, np.concatenate([p.outputs[name] for p in alone]), atol=1e-6)
    assert together.matches is not None
    assert [m[0][0] for m in together.matches] == [p.matches[0][0][0] for p in alone]  # type: ignore[index]


def test_modalities_of_different_numbers_are_each_cut_to_the_range(dual: Path, fusion: Path) -> None:
    bundle = Bundle.open(dual)
    images, texts = [bundles.png(i) for i in range(9)], [f"a cat {i}" for i in range(6)]
    together = bundle.predict(image=images, text=texts).outputs
    np.testing.assert_array_equal(together["image_embedding"], bundle.predict(image=images).outputs["image_embedding"])
    np.testing.assert_array_equal(together["text_embedding"], bundle.predict(text=texts).outputs["text_embedding"])
    with pytest.raises(InputError, match="different numbers of samples"):
        Bundle.open(fusion).predict(image=images, text=texts)


def test_a_batch_beyond_the_graphs_range_is_cut_into_pieces(dual: Path) -> None:
    made = Bundle.open(dual).predict(text=["a cat", "red"] * 5)
    assert made.outputs["text_embedding"].shape == (10, bundles.WIDTH)
    np.testing.assert_allclose(made.outputs["text_embedding"][0], made.outputs["text_embedding"][8], atol=1e-6)


def test_the_gallery_finds_its_own_images(dual: Path) -> None:
    matches = Bundle.open(dual).predict(image=[bundles.png(i) for i in range(3)], top=2).matches
    assert matches is not None
    for i, found in enumerate(matches):
        assert len(found) == 2
        assert found[0][0] == f"entry {i}"
        assert found[0][1] == pytest.approx(1, abs=1e-3)  # the gallery is float16


def test_matches_of_an_output_that_nothing_names_is_an_error(dual: Path) -> None:
    made = Bundle.open(dual).predict(text="a cat")
    assert made.named == ("text_embedding",)
    with pytest.raises(InputError, match="nothing names 'image_embedding'; there is text_embedding"):
        made.matches_of("image_embedding")


def test_labels_name_logits_by_softmax(fusion: Path) -> None:
    made = Bundle.open(fusion).predict(image=bundles.png(0), text="what is this ?", top=4)
    assert made.matches is not None
    assert sum(score for _, score in made.matches[0]) == pytest.approx(1)
    assert made.matches[0][0][0] == bundles.LABELS[int(made.outputs["logits"][0].argmax())]


def test_a_missing_modality_is_named(fusion: Path) -> None:
    with pytest.raises(InputError, match="'logits' also needs 'image'"):
        Bundle.open(fusion).predict(text="a dog ?")
    with pytest.raises(InputError, match=r"got nothing.*'image' and 'text'"):
        Bundle.open(fusion).predict()


def test_an_unknown_modality_is_named(fusion: Path) -> None:
    with pytest.raises(InputError, match=r"no modality 'audio'; it takes \['image', 'text'\]"):
        Bundle.open(fusion).predict(audio="x.wav")


def test_different_numbers_of_samples_cannot_be_fused(fusion: Path) -> None:
    with pytest.raises(InputError, match="part 'fusion': its inputs have different numbers of samples"):
        Bundle.open(fusion).predict(image=[bundles.png(0)] * 2, text=["a"] * 3)


def test_a_part_runs_alone(dual: Path) -> None:
    bundle = Bundle.open(dual)
    values = bundle.values(text=["a cat"])
    made = bundle.part("text").run(values)  # type: ignore[arg-type]
    np.testing.assert_array_equal(made["text_embedding"], bundle.predict(text="a cat").outputs["text_embedding"])
    with pytest.raises(BundleError, match="no part 'nose'"):
        bundle.part("nose")


def test_a_part_refuses_feeds_that_do_not_fit(dual: Path) -> None:
    part = Bundle.open(dual).part("image")
    where = "part 'image', input 'pixels': "
    with pytest.raises(InputError, match=where + r"no value for it among \['nothing'\]; expected float32 \['batch', 3"):
        part.run({"nothing": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match=where + "got list, expected float32 .* as a numpy array"):
        part.run({"pixels": [[1.0, 2.0]]})  # type: ignore[dict-item]
    for shape, dtype in MISFITS:
        with pytest.raises(InputError, match=where + rf"got {dtype} \({shape[0]},.*, expected float32 \['batch', 3, 8"):
            part.run({"pixels": np.zeros(shape, dtype)})


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_part_refuses_values_that_are_not_finite(dual: Path, target: str, value: float) -> None:
    pixels = np.zeros((3, 3, 8, 8), np.float32)
    pixels[1, 2, 3, 4] = value
    part = Bundle.open(dual, target=target).part("image")
    with pytest.raises(InputError, match="part 'image', input 'pixels': sample 1 holds NaN or infinite values"):
        part.run({"pixels": pixels})


def test_predict_does_not_pay_for_the_checks_of_a_part_run_alone(dual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemm.runtime.bundle.check_feed", lambda *_, **__: pytest.fail("checked"))
    Bundle.open(dual).predict(image=[bundles.png(0), bundles.png(1, (12, 10))], text="a cat")


def test_a_session_refuses_feeds_that_do_not_fit(dual: Path) -> None:
    for target in ("cpu", "openvino"):
        session = Bundle.open(dual, target=target).part("image").session
        with pytest.raises(EngineError, match=f"target '{target}', part 'image'.*no value for the inputs"):
            session.run({"nothing": np.zeros(1, np.float32)})
        for shape, dtype in MISFITS:
            with pytest.raises(EngineError, match=f"target '{target}', part 'image'.*cannot run"):
                session.run({"pixels": np.zeros(shape, dtype)})


def test_outputs_are_the_callers_own(dual: Path) -> None:
    for target in ("cpu", "openvino"):
        bundle = Bundle.open(dual, target=target)
        first = bundle.predict(text="a cat").outputs["text_embedding"]
        kept = first.copy()
        for _ in range(20):
            bundle.predict(text="red house")
        np.testing.assert_array_equal(first, kept)


def test_openvino_gives_the_same_before_and_after_it_fixes_a_shape(dual: Path) -> None:
    part = Bundle.open(dual, target="openvino").part("text")
    feeds = {"input_ids": np.array([[2, 4, 5, 3]]), "attention_mask": np.ones((1, 4), np.int64)}
    first = part.run(feeds)["text_embedding"]
    for _ in range(12):
        np.testing.assert_allclose(part.run(feeds)["text_embedding"], first, atol=1e-6)
    wider = {name: np.repeat(value, 3, axis=0) for name, value in feeds.items()}
    assert part.run(wider)["text_embedding"].shape == (3, bundles.WIDTH)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_each_of_several_threads_gets_its_own_answer(dual: Path, target: str) -> None:
    texts = [" ".join(bundles.WORDS[4 : 4 + i]) for i in range(1, 9)]  # of different lengths: static models come up
    pictures = [bundles.png(i) for i in range(8)]
    bundle = Bundle.open(dual, target=target, threads=1)
    expected = [bundle.predict(text=t, image=p).outputs for t, p in zip(texts, pictures, strict=True)]

    def ask(turn: int) -> bool:
        made = shared.predict(text=texts[turn % 8], image=pictures[turn % 8]).outputs
        return all(np.allclose(made[name], value, atol=1e-5) for name, value in expected[turn % 8].items())

    shared = Bundle.open(dual, target=target, threads=1)
    with ThreadPoolExecutor(4) as pool:
        assert sum(not right for right in pool.map(ask, range(1600))) == 0


def test_threads_can_be_set_and_are_checked(dual: Path) -> None:
    bundle = Bundle.open(dual, threads=2)
    before = bundle.predict(text="a cat").outputs["text_embedding"]
    bundle.threads = 1
    assert bundle.threads == 1
    np.testing.assert_allclose(bundle.predict(text="a cat").outputs["text_embedding"], before, atol=1e-6)
    with pytest.raises(InputError, match="threads"):
        bundle.threads = -1


def test_an_unknown_target_names_the_known_ones(dual: Path) -> None:
    with pytest.raises(BundleError, match=r"no target 'npu'; it has \['cpu', 'openvino'\]"):
        Bundle.open(dual, target="npu")


def test_an_engine_that_is_not_installed_says_what_to_install(dual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(EngineNotInstalled, match=r"target 'openvino'.*not installed; pip install \"openvino>="):
        Bundle.open(dual, target="openvino")
    assert Bundle.open(dual).target.name == "cpu"


def test_bytes_that_are_no_graph_are_refused_by_each_engine() -> None:
    for engine in ("onnxruntime", "openvino"):
        for data, reason in ((b"", f"{engine} .*refuses the graph"), (b"no graph", "not an ONNX model")):
            with pytest.raises(EngineError, match=f"target 'x'.*{reason}") as caught:
                open_session(engine, data, what="target 'x'")
            assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="no engine 'abacus'"):
        open_session("abacus", b"")


def test_a_plan_without_a_gpu_is_one_clear_line() -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="target 'rtx': tensorrt-rtx needs an NVIDIA GPU") as caught:
        open_session("tensorrt-rtx", b"plan", what="target 'rtx'")
    assert "\n" not in str(caught.value)


def test_a_plan_of_another_version_or_system_is_refused_before_loading() -> None:
    for key, value in (("engine_version", "0.0.1"), ("os", "beos")):
        with pytest.raises(EngineError, match=f"built for tensorrt-rtx {key} {value}, this machine has .*rebuild"):
            open_session("tensorrt-rtx", b"plan", what="x", fingerprint={key: value})


def test_a_file_whose_inputs_are_not_the_manifests_is_refused(tmp_path: Path) -> None:
    manifest = bundles.dual_encoder(tmp_path / "b")
    (tmp_path / "b/graphs/text.onnx").write_bytes((tmp_path / "b/graphs/image.onnx").read_bytes())
    seal(tmp_path / "b", manifest)
    with pytest.raises(BundleError, match=r"part 'text': the file takes .*pixels.* the manifest says .*input_ids"):
        Bundle.open(tmp_path / "b").predict(text="a cat")


def test_wrong_golden_outputs_fail_verification(tmp_path: Path) -> None:
    manifest = bundles.dual_encoder(tmp_path / "b")
    made = Bundle.open(tmp_path / "b").run_golden()
    made["text_embedding"][1, 3] += 0.01
    np.savez(tmp_path / "b/golden/outputs.npz", **made)
    seal(tmp_path / "b", manifest)
    report = Bundle.open(tmp_path / "b").verify()
    assert not report.ok
    assert "output 'text_embedding' is off by 0.01 on the golden samples, expected at most 0.0001" in report.problems[0]


def test_labels_that_do_not_fit_the_logits_are_refused(tmp_path: Path) -> None:
    manifest = bundles.fusion_classifier(tmp_path / "b")
    (tmp_path / "b/labels.json").write_text('["only one"]')
    seal(tmp_path / "b", manifest)
    with pytest.raises(BundleError, match="1 labels for logits of shape"):
        _ = Bundle.open(tmp_path / "b").predict(image=bundles.png(0), text="a").matches


def test_sounds_and_sensors_go_in_as_arrays(sensing: Path) -> None:
    bundle = Bundle.open(sensing)
    waves = [np.linspace(-1, 1, n, dtype=np.float32) for n in (160, 400, 20000)]
    together = bundle.predict(audio=waves).outputs["audio_embedding"]
    alone = np.concatenate([bundle.predict(audio=wave).outputs["audio_embedding"] for wave in waves])
    np.testing.assert_array_equal(together, alone)
    one = bundle.predict(sensor=[1, 2, 3, 4, 5, 6]).outputs["sensor_embedding"]
    two = bundle.predict(sensor=np.array([[1, 2, 3, 4, 5, 6]] * 2, np.float64)).outputs["sensor_embedding"]
    assert one.shape == (1, bundles.WIDTH)
    np.testing.assert_allclose(two[1], one[0], atol=1e-5)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_frontends_run_on_onnxruntime_in_every_target(dual: Path, target: str) -> None:
    # OpenVINO 2026.4 ignores Resize's antialias: a 480x512 image came out different by 1.4 of a range of 2
    engines = {part.name: part.engine for part in Bundle.open(dual, target=target).parts}
    assert engines.pop("image_frontend") == "onnxruntime"
    assert set(engines.values()) == {"onnxruntime" if target == "cpu" else "openvino"}


def test_placeholders_alone_are_no_sample(tmp_path: Path) -> None:
    bundles.fusion_classifier(tmp_path / "f", placeholders=True)
    with pytest.raises(InputError, match="nothing to predict from; give one or more of image, text"):
        Bundle.open(tmp_path / "f").predict()
