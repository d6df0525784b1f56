"""A checkpoint's tokenizer as its owner uses it, held to transformers.AutoTokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgemm.models.odd_texts import COUNT, odd_texts
from edgemm.models.owner_tokenizer import OwnerTokenizer
from edgemm.models.tokenizer import hold_trimmed, trim_vocabulary
from edgemm.runtime.errors import ModelError
from edgemm.runtime.readers.text import TextEncoder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, "red", "blue", "cup", "bowl", "a", "on", "table", "##s", "A", "RED", "Cup", "é", "e", "<", "s", ">")
TEXTS = ("A RED Cup on a table", "a blue bowl", "café cups", "a [SEP] b", "")


def word_piece(folder: Path, *, lower: bool = True, **config: Any) -> None:
    """Write the files of a BERT's tokenizer, ``tokenizer_config.json`` with what is given."""
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **config}))


def byte_level(folder: Path, **config: Any) -> None:
    """Write the files of a RoBERTa's tokenizer: bytes, and a few merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("r", "e"), ("re", "d"), ("c", "u"), ("cu", "p")]
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), "<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer", **config}))


def as_on_a_device(folder: Path, *, max_tokens: int = 8, length: int | None = None, rows: int = 512) -> TextEncoder:
    text = OwnerTokenizer(folder, name="hf:x", rows=rows).cut_at(max_tokens, length=length)
    return TextEncoder(
        text.encode(), file="tokenizer.json", min_tokens=length or 1, max_tokens=max_tokens, where="text"
    )


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (word_piece, {}),
        (word_piece, {"do_lower_case": True}),
        (word_piece, {"do_lower_case": False, "strip_accents": True}),
        (word_piece, {"tokenize_chinese_chars": False, "truncation_side": "left"}),
        (word_piece, {"padding_side": "left"}),
        (word_piece, {"split_special_tokens": True}),
        (byte_level, {"add_prefix_space": True}),
        (byte_level, {"padding_side": "left", "truncation_side": "left"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "-".join(map(str, value)) or "plain",
)
@pytest.mark.parametrize("length", [None, 8])
def test_the_device_makes_the_ids_mask_and_padding_of_autotokenizer(
    make: Callable[..., None], config: dict[str, Any], length: int | None, tmp_path: Path
) -> None:
    make(tmp_path, **({"lower": False, **config} if make is word_piece and config else config))
    owner = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in TEXTS if text]
    expected = owner(texts, truncation=True, max_length=8, padding="max_length" if length else True)
    ids, mask = as_on_a_device(tmp_path, length=length).encode(texts)
    assert ids.tolist() == expected["input_ids"]
    assert mask.tolist() == expected["attention_mask"]


def test_a_vocabulary_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    ids, _ = as_on_a_device(tmp_path).encode(["A RED Cup"])
    assert ids.tolist() == [[2, 9, 5, 7, 3]]


def test_tokens_of_another_file_are_found_in_a_text(tmp_path: Path) -> None:
    word_piece(tmp_path, do_lower_case=True)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / "added_tokens.json").write_text('{"sku-7": 21}')
    (tmp_path / "special_tokens_map.json").write_text('{"sep_token": "table"}')
    ids, _ = as_on_a_device(tmp_path).encode(["a sku-7"])
    assert ids.tolist() == [[2, 9, 21, 11]]


def test_a_token_without_a_row_in_the_word_table_is_refused(tmp_path: Path) -> None:
    word_piece(tmp_path, do_lower_case=True)
    owner = transformers.AutoTokenizer.from_pretrained(tmp_path)
    owner.add_tokens(["SKU-7"])
    owner.save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"hf:x: the tokenizer's 'SKU-7' has the id 21, and the model's word table 21 ro"
    ):
        OwnerTokenizer(tmp_path, name="hf:x", rows=21)
    assert as_on_a_device(tmp_path, rows=22).encode(["a SKU-7"])[0].tolist() == [[2, 9, 21, 3]]


def test_a_token_that_only_the_class_brings_is_no_token_on_a_device(tmp_path: Path) -> None:
    word_piece(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "xlm-roberta"}')  # whose class adds <s>, <mask> and others
    ids, _ = as_on_a_device(tmp_path, rows=len(WORDS)).encode(["a <s> b"])
    assert ids.max() < len(WORDS)


def test_a_class_that_transformers_only_guesses_gives_way_to_the_file(tmp_path: Path) -> None:
    word_piece(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')  # whose tokenizer is no WordPiece
    with pytest.raises(TypeError, match="does not match the expected format"):
        transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert as_on_a_device(tmp_path).encode(["a RED cup"])[0].tolist() == [[2, 9, 5, 7, 3]]


def test_code_of_the_folders_own_is_never_run(tmp_path: Path) -> None:
    word_piece(tmp_path, auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=r"code of its own \(auto_map in tokenizer_config.json\), which is never run"):
        OwnerTokenizer(tmp_path, name="hf:x", rows=99)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_that_can_not_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"hf:x: no tokenizer in .*: expected tokenizer.json, or a vocabulary such as"):
        OwnerTokenizer(tmp_path, name="hf:x", rows=99)
    word_piece(tmp_path, do_lower_case=True)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    with pytest.raises(ModelError, match=r"hf:x: transformers.AutoTokenizer can't read the tokenizer: ") as raised:
        OwnerTokenizer(tmp_path, name="hf:x", rows=99)
    assert "\n" not in str(raised.value)


def test_a_tokenizer_that_a_device_would_refuse_is_refused_when_it_is_taken_in(tmp_path: Path) -> None:
    word_piece(tmp_path, tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    del content["post_processor"]["special_tokens"]["[SEP]"]  # on which the library panics
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"hf:x: .*\[SEP\]"):
        OwnerTokenizer(tmp_path, name="hf:x", rows=99).cut_at(8)


def test_the_gate_names_the_first_text_and_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word_piece(tmp_path, do_lower_case=True)
    owner = OwnerTokenizer(tmp_path, name="hf:x", rows=99)
    other = tmp_path / "other"
    other.mkdir()
    word_piece(other, do_lower_case=False)
    owner._json = OwnerTokenizer(other, name="hf:y", rows=99)._json
    message = (
        r"hf:x: the device would make other tokens than transformers' BertTokenizerFast of 'A RED Cup': at 1 'A' "
        r"\(13\), expected 'a' \(9\)"
    )
    with pytest.raises(ModelError, match=message):
        owner.cut_at(8)


def test_the_odd_texts_are_two_hundred_different_ones() -> None:
    for tokens in ([], ["[SEP]"], [f"token {i}" for i in range(5000)]):
        texts = odd_texts(tokens)
        assert len(texts) == len(set(texts)) == COUNT == 200
        assert texts == odd_texts(tokens)
        assert not tokens or any(tokens[0] in text for text in texts)


# --- trimmed ---------------------------------------------------------------------------------------------------------


def extended(folder: Path) -> str:
    """With two tokens behind the vocabulary, one of which no text holds."""
    word_piece(folder, do_lower_case=True)
    owner = transformers.AutoTokenizer.from_pretrained(folder)
    owner.add_tokens(["SKU-7", "<part>"])
    owner.add_special_tokens({"additional_special_tokens": ["<end>"]})
    owner.save_pretrained(folder)
    return OwnerTokenizer(folder, name="hf:x", rows=24).cut_at(8)


def test_trimming_keeps_special_tokens_and_those_of_the_texts(tmp_path: Path) -> None:
    whole = extended(tmp_path)
    trimmed, rows = trim_vocabulary(whole, ["a red SKU-7"])
    assert [row for row in rows if row >= len(WORDS)] == [21, 23]
    before, after = Tokenizer.from_str(whole), Tokenizer.from_str(trimmed)
    for text in ("a red SKU-7", "red<end>", "[SEP] a"):
        ids = after.encode(text).ids
        assert [rows[i] for i in ids] == before.encode(text).ids
        assert max(ids) < len(rows)
    assert "<part>" not in after.get_vocab()
    hold_trimmed(whole, trimmed, rows, odd_texts(["SKU-7", "<part>", "<end>"]))


def test_trimming_renumbers_a_sequence_of_post_processors(tmp_path: Path) -> None:
    word_piece(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["post_processor"] = {"type": "Sequence", "processors": [content["post_processor"]]}
    trimmed, rows = trim_vocabulary(json.dumps(content), ["blue"])
    assert [rows[i] for i in Tokenizer.from_str(trimmed).encode("blue").ids] == [2, 6, 3]


def test_a_trimmed_vocabulary_that_reads_a_kept_word_otherwise_is_told(tmp_path: Path) -> None:
    whole = extended(tmp_path)
    trimmed, rows = trim_vocabulary(whole, ["a red cup"])
    content = json.loads(trimmed)
    words = content["model"]["vocab"]
    words["red"], words["cup"] = words["cup"], words["red"]
    with pytest.raises(
        ModelError, match=r"trimmed, it reads word 1 of 'a red' as \['cup'\], expected \['red'\]; set voc"
    ):
        hold_trimmed(whole, json.dumps(content), rows, ["a red"])


def test_a_folder_of_sentences_in_lower_case_is_read_so(tmp_path: Path) -> None:
    word_piece(tmp_path, lower=False, do_lower_case=False)
    text = OwnerTokenizer(tmp_path, name="hf:x", rows=99, lower=True).cut_at(8)
    assert Tokenizer.from_str(text).encode("A RED Cup").ids == [2, 9, 5, 7, 3]
