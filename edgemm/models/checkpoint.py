"""A foreign checkpoint's folder: its config and its weights, or one line that says what lies there instead.

edgemm takes checkpoints of transformers, in float, from safetensors. People give it everything that model hubs hold.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgemm.runtime.errors import ModelError
from edgemm.runtime.fields import json_value, one_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_LFS = b"version https://git-lfs"
_FACTORY = "load it in a python: factory (docs/your-own-model.md)"
_FLOAT = "give the checkpoint in float that it was made from"

_LAYOUTS: tuple[tuple[str, str, str], ...] = (
    # what a folder has, what that is, and what to do: the first that fits says it
    ("open_clip_config.json", "an open_clip model", _FACTORY),
    ("open_clip_*", "an open_clip model", _FACTORY),
    ("model_index.json", "a diffusers pipeline", "give the folder of one of its encoders"),
    ("*.gguf", "GGUF weights of llama.cpp, which are quantized already", _FLOAT),
    ("manifest.json", "a bundle of edgemm, not a checkpoint", "give what it was made from"),
    ("model.json", "a model that edgemm saved", "name it as folder:PATH instead of hf:PATH"),
    ("*.onnx", "ONNX graphs", "give the graph itself: edgemm quantize FILE.onnx"),
    ("onnx/*.onnx", "ONNX graphs", "give the graph itself: edgemm quantize onnx/FILE.onnx"),
    ("openvino*.xml", "an OpenVINO model", _FLOAT),
    ("openvino/*.xml", "an OpenVINO model", _FLOAT),
    ("*.mlpackage", "a Core ML model", _FLOAT),
    ("*.mlmodelc", "a Core ML model", _FLOAT),
    ("*.mlmodel", "a Core ML model", _FLOAT),
    ("*.tflite", "a TensorFlow Lite model", _FLOAT),
    ("*.engine", "a TensorRT engine", _FLOAT),
    ("*.plan", "a TensorRT engine", _FLOAT),
    ("*.nemo", "a NeMo archive", _FACTORY),
    ("saved_model.pb", "a TensorFlow SavedModel", _FACTORY),
    ("*.keras", "a Keras model", _FACTORY),
    ("*.npz", "weights of MLX or numpy", _FACTORY),
    ("*.ckpt", "a training checkpoint", _FACTORY),
    ("*.pt", "a pickled checkpoint of PyTorch", _FACTORY),
    ("*.pth", "a pickled checkpoint of PyTorch", _FACTORY),
)

_PICKLED = "pytorch_model*.bin"
_OTHER_FRAMEWORKS = (("*.msgpack", "Flax", "from_flax"), ("*.h5", "TensorFlow", "from_tf"))

_CONVERT = (
    "import glob, sys, torch; from safetensors.torch import save_file; "
    "save_file({k: v.clone().contiguous() for f in sorted(glob.glob(sys.argv[1])) "
    "for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}, sys.argv[2], {'format': 'pt'})"
)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file of the checkpoint. Raises ModelError naming it."""
    try:
        content = json_value(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error.strerror}); is the model's folder complete?") from error
    except ValueError as error:
        if is_pointer(path):
            raise pointer_error(path) from error
        raise ModelError(f"{path}: not JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: got {type(content).__name__}, expected an object")
    return content


def checkpoint_config(folder: Path, *, name: str) -> dict[str, Any]:
    """``config.json`` of a checkpoint that edgemm might take.

    Args:
        name: as the user gave it, for messages.

    Raises:
        ModelError: another library's folder, an adapter, a quantized checkpoint, or one with code of its own.
    """
    if (folder / "adapter_config.json").is_file():
        adapter = read_json(folder / "adapter_config.json")
        base = adapter.get("base_model_name_or_path")
        raise ModelError(
            f"{name}: there lies an adapter ({adapter.get('peft_type', 'PEFT')} for {base}), not a whole model; merge "
            "it first, with peft: PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload().save_pretrained(MERGED)"
        )
    if not (folder / "config.json").is_file():
        raise _instead_of_config(folder, name)
    config = read_json(folder / "config.json")
    if "model_type" not in config:
        if "pretrained_cfg" in config or "architecture" in config:
            raise ModelError(f"{name}: there lies a timm model ({config.get('architecture')}); {_FACTORY}")
        for pattern, what, advice in _LAYOUTS:
            if any(folder.glob(pattern)):
                raise ModelError(f"{name}: there lies {what}; {advice}")
        raise ModelError(f"{name}: config.json names no model_type, which transformers writes; {_FACTORY}")
    architectures = config.get("architectures") or []
    if not isinstance(config["model_type"], str) or not isinstance(architectures, list):
        raise ModelError(f"{folder / 'config.json'}: expected a name as model_type and a list of architectures")
    for field in ("quantization_config", "compression_config", "quantization"):
        if isinstance(by := config.get(field), Mapping):
            how = by.get("quant_method") or by.get("quant_algo") or ("MLX" if field == "quantization" else "unnamed")
            raise ModelError(f"{name}: the checkpoint is quantized already ({field}: {how}); {_FLOAT}")
    if isinstance(auto := config.get("auto_map"), Mapping) and auto:
        raise ModelError(
            f"{name}: its architecture is code of its own (auto_map in config.json: {next(iter(auto.values()))}), "
            f"which is never run; {_FACTORY}"
        )
    return config


def _instead_of_config(folder: Path, name: str) -> ModelError:
    for pattern, what, advice in _LAYOUTS:
        if any(folder.glob(pattern)):
            return ModelError(f"{name}: there lies {what}; {advice}")
    inside = sorted(path.parent for path in folder.glob("*/config.json") if (path.parent / WEIGHTS).is_file())
    if inside:
        return ModelError(f"{name}: no config.json, but there is one in {inside[0].name}; give hf:{inside[0]}")
    return ModelError(f"{name}: config.json is missing in {folder}; is the model's folder complete?")


def weight_files(folder: Path, *, name: str) -> list[Path]:
    """Return the safetensors files that hold a checkpoint's weights: one, or all that its index names.

    Raises:
        ModelError: weights in another form, with what to do, or files that are missing, damaged or not fetched.
    """
    if (folder / WEIGHTS).is_file():
        files = [folder / WEIGHTS]
    elif (folder / INDEX).is_file():
        files = _shards(folder, name)
    else:
        raise _instead_of_weights(folder, name)
    for path in files:
        if is_pointer(path):
            raise pointer_error(path)
        try:
            with safe_open(str(path), "pt") as file:
                file.keys()
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path}: damaged, or fetched by half ({one_line(error)}); {path.stat().st_size} bytes are there: "
                "fetch it again"
            ) from error
    return files


def _shards(folder: Path, name: str) -> list[Path]:
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise ModelError(f"{folder / INDEX}: no weight_map, which says which file holds which weight; save it again")
    files = sorted(set(where.values()))
    if odd := [file for file in files if Path(file).name != file or file in (".", "..")]:
        raise ModelError(f"{folder / INDEX}: names '{odd[0]}', expected files of the same folder")
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ModelError(
            f"{name}: {INDEX} names {len(files)} files, and {missing[0]} is missing ({len(missing)} of them); fetch "
            "the folder again"
        )
    return [folder / file for file in files]


def _instead_of_weights(folder: Path, name: str) -> ModelError:
    others = sorted(path for path in folder.glob("*.safetensors"))
    shards = [path for path in others if "-of-" in path.name]
    if shards:
        return ModelError(
            f"{name}: {len(shards)} files such as {shards[0].name}, and no {INDEX} that says what they hold; fetch it "
            "too"
        )
    if others:
        return ModelError(
            f"{name}: weights are read from {WEIGHTS}; there is {others[0].name}: rename it if it is whole"
        )
    if any(folder.glob(_PICKLED)):
        return _pickled(folder, name, _PICKLED)
    for pattern, what, advice in _LAYOUTS:
        if any(folder.glob(pattern)):
            return ModelError(f"{name}: there lies {what}; {advice}")
    if any(folder.glob("*.bin")):
        return _pickled(folder, name, "*.bin")
    for pattern, framework, argument in _OTHER_FRAMEWORKS:
        if any(folder.glob(pattern)):
            return ModelError(
                f"{name}: there lie weights of {framework} alone ({pattern}); where that is installed, convert them: "
                f"AutoModel.from_pretrained({str(folder)!r}, {argument}=True).save_pretrained({str(folder)!r})"
            )
    return ModelError(f"{name}: no {WEIGHTS} in {folder}; is the model's folder complete?")


def _pickled(folder: Path, name: str, pattern: str) -> ModelError:
    files, out = shlex.quote(str(folder / pattern)), shlex.quote(str(folder / WEIGHTS))
    return ModelError(
        f"{name}: weights are read from safetensors alone, since a .bin can run code; convert them, as save_pretrained "
        f'does: python -c "{_CONVERT}" {files} {out}'
    )


def is_pointer(path: Path) -> bool:
    """Return whether a file is only what Git LFS keeps in its place."""
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS)) == _LFS
    except OSError:
        return False


def pointer_error(path: Path) -> ModelError:
    """Return what to say of such a file."""
    return ModelError(
        f"{path}: not the file, only Git LFS's pointer to it ({path.stat().st_size} bytes); fetch it: git lfs pull"
    )


def weight_names(files: list[Path]) -> set[str]:
    """Return names of all tensors, without reading them."""
    names: set[str] = set()
    for path in files:
        with safe_open(str(path), "pt") as file:
            names.update(file.keys())
    return names


def read_weights(folder: Path, *, name: str, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Tensor]:
    """Tensors of a checkpoint from all of its safetensors files, floats as float32.

    Args:
        wanted: of a tensor's name, whether to read it.

    Raises:
        ModelError: see ``weight_files``; or a weight that isn't stored in float.
    """
    state: dict[str, Tensor] = {}
    for path in weight_files(folder, name=name):
        with safe_open(str(path), "pt") as file:
            for key in file.keys():
                if wanted(key):
                    state[key] = _float(file.get_tensor(key), key, name)
    return state


def _float(value: Tensor, key: str, name: str) -> Tensor:
    if value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return value.float()
    if value.dtype in (torch.int64, torch.int32, torch.bool):  # positions, counters
        return value
    raise ModelError(
        f"{name}: '{key}' is stored as {str(value.dtype).removeprefix('torch.')}, so the checkpoint is quantized; "
        f"{_FLOAT}"
    )
