"""Attention maps out of exported graphs, against what torch and transformers compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from edgemm.graph.attention import patch_grid, with_attention_outputs
from edgemm.graph.capture import capture_model, capture_part
from edgemm.graph.quantize import quantize_onnx
from edgemm.measure.attention import Watched, look, read_out, roll_out
from edgemm.models.huggingface import encoder_from_hub
from edgemm.models.model import Model, Part
from edgemm.pipeline.explain import watch
from edgemm.pipeline.explained_samples import Viewer
from edgemm.runtime.archive import open_archive, seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.engine_onnxruntime import ORTSession
from edgemm.runtime.engines import Loading
from edgemm.runtime.errors import BundleError, EngineError
from edgemm.runtime.outputs import Values
from edgemm.runtime.signature import DimRange, Signature, TensorSpec
from edgemm.stage import Context
from tests.attending_bundle import FRAMES, attending_model, attending_samples, raw_values, write_attending

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def attending(tmp_path_factory) -> Path:
    return write_attending(tmp_path_factory.mktemp("attending") / "bundle")


def softmaxes(module: nn.Module, *inputs: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every softmax that the module takes, in order."""
    taken: list[np.ndarray] = []
    plain = torch.softmax

    def recorded(x: torch.Tensor, dim: int) -> torch.Tensor:
        made = plain(x, dim=dim)
        taken.append(made.detach().numpy())
        return made

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "softmax", recorded)
        module(*inputs)
    return taken


def captured(part: Part, values: dict[str, torch.Tensor]) -> ir.Model:
    return capture_part(part, values)


def run_maps(model: ir.Model, feeds: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[tuple[str, ...]]]:
    data, maps = with_attention_outputs(ir.to_proto(model).SerializeToString())
    made = ORTSession(data, Loading("onnxruntime", 1, "test")).run(feeds)
    return [made[m.output] for m in maps], [m.keys for m in maps]


def test_every_layer_of_a_text_tower_is_found_with_torchs_own_numbers(monkeypatch):
    model = attending_model()
    text = model.part("text")
    feeds = {k: raw_values(3)[k] for k in ("input_ids", "attention_mask")}
    feeds["attention_mask"][1, 3:] = 0
    values = {k: torch.from_numpy(v) for k, v in feeds.items()}
    expected = softmaxes(text.module, *values.values(), monkeypatch=monkeypatch)
    found, keys = run_maps(captured(text, values), feeds)
    assert len(found) == len(expected) == 2
    for got, wanted in zip(found, expected, strict=True):
        assert got.shape == (3, 2, 5, 5)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert keys[0] == ("input_ids",)


def test_cross_attention_names_the_input_that_it_looks_at(monkeypatch):
    fusion = attending_model().part("fusion")
    values = {"image_features": torch.randn(2, 16, 16), "text_features": torch.randn(2, 16)}
    expected = softmaxes(fusion.module, *values.values(), monkeypatch=monkeypatch)
    found, keys = run_maps(captured(fusion, values), {k: v.numpy() for k, v in values.items()})
    assert keys == [("image_features",)]
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


def test_int8_graphs_keep_their_maps_near_float32():
    text = attending_model().part("text")
    feeds = {k: raw_values(16)[k] for k in ("input_ids", "attention_mask")}
    model = captured(text, {k: torch.from_numpy(v) for k, v in feeds.items()})
    before, _ = run_maps(model, feeds)
    int8 = quantize_onnx(model, [feeds])
    assert "QuantizeLinear" in [node.op_type for node in int8.graph]
    after, keys = run_maps(int8, feeds)
    assert len(after) == 2
    assert "input_ids" in keys[1]
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a.sum(axis=-1), 1.0, atol=1e-5)
        # Int8 of queries and keys moves sharp maps a little; the map of another sample is far off.
        assert 0 < np.abs(a - b).mean() < 0.2 * np.abs(a - np.roll(b, 1, axis=0)).mean()


@pytest.mark.parametrize("written", ["eager", "sdpa"])
def test_a_clip_image_tower_gives_what_transformers_gives(written):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8,
        attn_implementation=written,
    )  # fmt: skip

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = CLIPVisionModel(config)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.clip(pixels).pooler_output

    tower = Tower().eval()
    signature = Signature(
        (TensorSpec("pixels", "float32", ("batch", 3, 32, 32)),),
        (TensorSpec("features", "float32", ("batch", 32)),),
        {"batch": DimRange(1, 1, 4)},
    )
    pixels = torch.randn(2, 3, 32, 32)
    model = captured(Part("image", "tower", "image", "test", {}, signature, tower), {"pixels": pixels})
    found, keys = run_maps(model, {"pixels": pixels.numpy()})
    tower.clip.set_attn_implementation("eager")
    with torch.no_grad():
        expected = tower.clip(pixels, output_attentions=True).attentions
    assert len(found) == 2
    assert keys == [("pixels",)] * 2
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)


def test_outputs_that_were_there_stay_as_they_were():
    text = attending_model().part("text")
    feeds = {k: raw_values(2)[k] for k in ("input_ids", "attention_mask")}
    plain = ir.to_proto(captured(text, {k: torch.from_numpy(v) for k, v in feeds.items()})).SerializeToString()
    watched, _ = with_attention_outputs(plain)
    before = ORTSession(plain, Loading("onnxruntime", 1, "plain")).run(feeds)["text_features"]
    after = ORTSession(watched, Loading("onnxruntime", 1, "watched")).run(feeds)["text_features"]
    np.testing.assert_allclose(after, before, atol=1e-5)  # an output in the middle may undo a fusion


def test_a_softmax_that_is_no_attention_is_left_alone():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["product"]),
        helper.make_node("Softmax", ["product"], ["p"]),
        helper.make_node("Log", ["p"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, [2, 2])], [info("y", TensorProto.FLOAT, [2, 2])]
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    assert with_attention_outputs(data) == (data, ())


def test_what_is_no_graph_is_named():
    with pytest.raises(BundleError, match="part 'text': not an ONNX graph"):
        with_attention_outputs(b"\xff a plan", what="part 'text'")


def test_a_bundle_is_followed_to_patches_words_and_frames(attending, tmp_path, monkeypatch):
    bundle = Bundle.open(attending)
    watched = watch(bundle)
    assert set(watched) == {"text", "audio", "fusion"}
    assert all(isinstance(each, Watched) for each in watched.values())
    sample = attending_samples(tmp_path, 1)[0]
    given = {m: sample.raw(m) for m in ("image", "text", "audio")}
    found = look(bundle, watched, given)
    assert {m: w.shape for m, w in found.items()} == {"image": (16,), "text": (7,), "audio": (FRAMES,)}
    for weights in found.values():
        assert weights.sum() == pytest.approx(1.0)
        assert (weights >= 0).all()
    # The same by torch: the fusion's one query over the patches, and the text's two layers rolled out.
    model = attending_model()
    known = {k: torch.from_numpy(v) for k, v in bundle.values(**given).items()}
    with torch.no_grad():
        known.update(model(known))
    cross = softmaxes(
        model.part("fusion").module, known["image_features"], known["text_features"], monkeypatch=monkeypatch
    )[0]
    np.testing.assert_allclose(found["image"], cross[0].mean(axis=(0, 1)), atol=1e-4)
    layers = [
        layer[0]
        for layer in softmaxes(
            model.part("text").module, known["input_ids"], known["attention_mask"], monkeypatch=monkeypatch
        )
    ]
    np.testing.assert_allclose(found["text"], read_out(roll_out(layers), layers, first=False), atol=1e-4)


def test_a_spectrogram_transformer_is_seen_over_time(tmp_path):
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    cut = {"num_mel_bins": 32, "max_length": 64}
    torch.manual_seed(0)
    whole = ASTModel(ASTConfig(**sizes, **cut, patch_size=8, initializer_range=0.5)).eval()
    whole.save_pretrained(tmp_path / "ast")
    ASTFeatureExtractor(**cut).save_pretrained(tmp_path / "ast")
    encoder = encoder_from_hub(str(tmp_path / "ast"), modality="audio", output="pooled")
    assert encoder.frontend is not None
    model = Model(
        "encoder",
        [encoder.frontend, encoder.tower],
        inputs={"audio": encoder.raw},
        outputs={"audio_features": Values()},
    )
    wave = np.random.default_rng(0).normal(0, 0.1, 9600).astype(np.float32)
    capture_model(
        model, [{"waveform": wave[None]}], tmp_path / "bundle", name="ast", context=Context(tmp_path / "scratch")
    )
    bundle = Bundle.open(tmp_path / "bundle")
    watched = watch(bundle)
    assert watched["audio"].patches == (3, 6)  # patches of 8 every 10, over 32 mels and 64 frames
    found = look(bundle, watched, {"audio": wave})["audio"]
    whole.set_attn_implementation("eager")
    mel = torch.from_numpy(bundle.run(bundle.values(audio=wave))["log_mel"])
    with torch.no_grad():
        attentions = [a[0].numpy() for a in whole(mel, output_attentions=True).attentions]
    seen = roll_out(attentions)[:2].mean(axis=0)[2:].reshape(3, 6).sum(axis=0)  # two class tokens are pooled
    np.testing.assert_allclose(found, seen / seen.sum(), atol=1e-4)
    strip = Viewer("0", bundle, watched).see({"audio": wave}).strip
    assert strip is not None
    assert strip.words.startswith("Weights over 0.7 s; the most at ")


def test_a_graph_that_cuts_no_spectrogram_has_no_grid(attending):
    bundle = Bundle.open(attending)
    assert patch_grid(bundle.archive.read(bundle.target.files["audio"])) is None
    assert watch(bundle)["audio"].patches is None


def test_a_graph_that_names_another_file_is_not_watched(tmp_path):
    folder = write_attending(tmp_path / "bundle")
    manifest = open_archive(folder).manifest
    target = manifest.targets[0]
    part = next(p.name for p in manifest.parts if p.role == "fusion")
    model = onnx.load(folder / target.files[part])
    weight = next(t for t in model.graph.initializer if len(t.raw_data) > 100)
    (tmp_path / "secret.bin").write_bytes(weight.raw_data)
    onnx.external_data_helper.set_external_data(weight, location="../secret.bin")
    weight.ClearField("raw_data")
    (folder / target.files[part]).write_bytes(model.SerializeToString())
    seal(folder, manifest)
    with pytest.raises(EngineError, match="keeps weights in another file"):
        watch(Bundle.open(folder))
