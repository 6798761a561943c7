"""Draw an image with NumPy and ONNX Runtime alone, from a folder that ``vqdiff export emoji -o FOLDER`` has written.

python examples/onnx_only.py FOLDER "a red apple" [OUTPUT.png] [SEED]

The image is that of ``vqdiff generate --precision float32`` for the same prompt and seed, except where rounding decides
between two tokens. The samplers are purity and fewer-tokens (Algorithms 2 and 1 of arXiv 2205.16007).
"""

from __future__ import annotations

import json
import re
import struct
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Denoise = Callable[[Array, int], tuple[Array, Array]]
"""(tokens (L,), t) -> logits (L, K) under the prompt, and under the null condition."""


def main(folder: Path, prompt: str, output: Path, seed: int) -> None:
    """Write the image of a prompt to ``output``."""
    output.write_bytes(png(draw(folder, prompt, seed)))
    print(f"{output}: {prompt}, seed {seed}")


def draw(folder: Path, prompt: str, seed: int) -> Array:
    """Return the image of a prompt, uint8 (H, W, 3)."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    condition, networks = text_condition(folder, manifest, prompt), Networks(folder)

    def denoise(tokens: Array, t: int) -> tuple[Array, Array]:
        both = networks("denoiser", np.stack([tokens] * 2), np.full(2, t), condition)
        return both[0], both[1]

    tokens = sample(denoise, manifest["schedule"], manifest["tokens"], manifest["sampling"], seed)
    pixels = networks("decoder", tokens[None])[0]
    return (pixels * 255).round().astype(np.uint8).transpose(1, 2, 0)


class Networks:
    """The graphs of a folder, each loaded when it is first called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sessions = folder, dict[str, Any]()

    def __call__(self, name: str, *inputs: Array) -> Array:
        """Compute a graph."""
        import onnxruntime

        if name not in self.sessions:
            self.sessions[name] = onnxruntime.InferenceSession(self.folder / f"{name}.onnx")
        session = self.sessions[name]
        names = [one.name for one in session.get_inputs()]
        return session.run(None, dict(zip(names, inputs, strict=True)))[0]


# --- text -------------------------------------------------------------------------------------------------------------


def text_condition(folder: Path, manifest: dict[str, Any], prompt: str) -> Array:
    """Return the features of a prompt and the null condition, (2, N, C)."""
    length = manifest["condition"]["max_tokens"]
    tokenizer = json.loads((folder / manifest["condition"]["tokenizer"]).read_text("utf-8"))
    pieces = word_pieces(tokenizer, without_notation(prompt))
    if len(pieces) > length:
        raise SystemExit(f"the prompt has {len(pieces)} word pieces, the limit is {length}: shorten it")
    ids, mask = np.zeros((2, 1, length), np.int64)
    ids[0, : len(pieces)], mask[0, : len(pieces)] = pieces, 1
    features = Networks(folder)("text_encoder", ids, mask)
    return np.stack([features[0], np.load(folder / manifest["condition"]["null"])])


def without_notation(prompt: str) -> str:
    """Return a prompt with its literal parentheses; ends the program if a word has a weight, which graphs lack."""
    if weighted := re.search(r"(?<!\\)\((?:[^()\\]|\\.)*:\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*\)", prompt):
        raise SystemExit(f"exported graphs take no prompt weights: write {weighted[0]} without parentheses and number")
    return re.sub(r"\\([()])", r"\1", prompt)


def word_pieces(tokenizer: dict[str, Any], text: str) -> list[int]:
    """Split a text as BERT does: lower case without accents, words and signs, then the longest known pieces."""
    vocabulary, unknown = tokenizer["model"]["vocab"], tokenizer["model"]["unk_token"]
    found = [vocabulary["[CLS]"]]
    for word in words(text):
        pieces, start = list[str](), 0
        while start < len(word):
            ends = range(len(word), start, -1)
            candidates = (("##" if start else "") + word[start:end] for end in ends)
            piece = next((one for one in candidates if one in vocabulary), None)
            if piece is None or len(word) > tokenizer["model"]["max_input_chars_per_word"]:
                pieces = [unknown]
                break
            pieces.append(piece)
            start += len(piece) - (2 if start else 0)
        found += [vocabulary[piece] for piece in pieces]
    return [*found, vocabulary["[SEP]"]]


def words(text: str) -> Iterator[str]:
    """Yield the words of a text and its signs, each alone, as are Chinese characters."""
    word = ""
    for letter in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(letter)
        space = letter.isspace()
        sign = category[0] == "P" or (letter.isascii() and category[0] == "S") or "\u4e00" <= letter <= "\u9fff"
        if space or sign:
            yield from [word] if word else []
            word = ""
        if sign:
            yield letter
        elif not space and category != "Mn" and category[0] != "C":
            word += letter
    yield from [word] if word else []


# --- sampling ---------------------------------------------------------------------------------------------------------


def sample(
    denoise: Denoise, schedule: dict[str, Any], tokens_of: dict[str, int], settings: dict[str, Any], seed: int
) -> Array:
    """Return the tokens (L,) of an image: masked positions are revealed in nearly equal parts.

    The guidance scale must be constant, and the sampler purity or fewer-tokens.
    """
    L, mask, gamma_bar = tokens_of["num_tokens"], tokens_of["mask"], np.array(schedule["gamma_bar"])
    steps = min(settings["steps"], L)
    left = [L - step * L // steps for step in range(steps + 1)]
    tokens = np.full(L, mask)
    for step, (before, after) in enumerate(pairwise(left), 1):
        logits = denoise(tokens, time_of(gamma_bar, before / L))
        tokens = reveal(tokens, tokens == mask, logits, before - after, settings, uniforms(seed, step, L))
    return tokens


def reveal(
    tokens: Array, masked: Array, logits: tuple[Array, Array], count: int, settings: dict[str, Any], u: Array
) -> Array:
    """Return the tokens with ``count`` of the masked positions filled; u: two random numbers per position."""
    by_purity = {"purity": True, "fewer-tokens": False}[settings["sampler"]]
    places = np.flatnonzero(masked)
    cond, null = (each[places] for each in logits)
    log_p0 = log_softmax(guide(cond, null, np.float32(settings["guidance"])))
    purity = np.exp(log_p0.max(1))
    # An exponential race: the first arrivals are draws without replacement, with weights ∝ purity.
    order = np.log(u[0, places]) / purity if by_purity else u[0, places]
    first = np.argsort(-order, kind="stable")[:count]
    log_p0 = truncate(log_p0[first], np.float32(settings["truncation"]))
    if by_purity:
        sharper = 1 + np.float32(settings["prior_scale"]) * purity[first]
        log_p0 = log_softmax(sharper[:, None] * log_p0)
    filled = tokens.copy()
    filled[places[first]] = draw_categorical(log_p0, u[1, places[first]])
    return filled


def guide(cond: Array, null: Array, scale: np.float32) -> Array:
    """Return null + scale · (cond − null), rounded as torch.lerp does."""
    return null + scale * (cond - null) if scale < 0.5 else cond - (cond - null) * (1 - scale)


def time_of(gamma_bar: Array, share: float) -> int:
    """Return the time 1..T whose gamma_bar is nearest to the masked share; of two equally near ones the later."""
    upper = min(max(int(np.searchsorted(gamma_bar, share)), 1), len(gamma_bar) - 1)
    return max(upper - (share - gamma_bar[upper - 1] < gamma_bar[upper] - share), 1)


def log_softmax(x: Array) -> Array:
    """Normalise log-probabilities."""
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def truncate(log_p0: Array, rate: np.float32) -> Array:
    """Keep the smallest set of codes with this mass, normalised; of equally likely ones, those of lowest number."""
    if rate >= 1:
        return log_p0
    top = -np.sort(-log_p0, axis=1)
    mass = np.exp(top).astype(np.float64).cumsum(1)
    last = np.minimum((mass < rate).sum(1, keepdims=True), log_p0.shape[1] - 1)
    floor = np.take_along_axis(top, last, 1)
    tied = log_p0 == floor
    kept = (log_p0 > floor) | (tied & (tied.cumsum(1) <= last + 1 - (top > floor).sum(1, keepdims=True)))
    normaliser = np.log(np.take_along_axis(mass, last, 1)).astype(log_p0.dtype)
    return np.where(kept, log_p0 - normaliser, log_p0.dtype.type(-np.inf))


def draw_categorical(log_p: Array, u: Array) -> Array:
    """Draw one code per row, by inverting the cumulative distribution at u."""
    cumulative = np.exp(log_p.astype(np.float64)).cumsum(1)
    level = u * cumulative[:, -1]
    drawn = [np.searchsorted(row, value, "right") for row, value in zip(cumulative, level, strict=True)]
    return np.minimum(drawn, log_p.shape[1] - 1)


def uniforms(seed: int, step: int, num_tokens: int) -> Array:
    """Return two uniform numbers in (0, 1) for every position, (2, L): functions of seed, step and position only."""
    positions = np.arange(num_tokens, dtype=np.uint64)
    key = (np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF))
    w0, w1, w2, w3 = philox(positions, np.full_like(positions, step), np.zeros_like(positions), key)
    bits = np.stack([w0 << np.uint64(20) | w1 >> np.uint64(12), w2 << np.uint64(20) | w3 >> np.uint64(12)])
    return (2 * bits + np.uint64(1)).astype(np.float64) * 2.0**-53


def philox(c0: Array, c1: Array, c2: Array, key: tuple[np.uint64, np.uint64]) -> tuple[Array, Array, Array, Array]:
    """Philox-4x32-10 of the counter (c0, c1, c2, 0); 32-bit words in uint64."""
    low, half, (k0, k1), c3 = np.uint64(0xFFFFFFFF), np.uint64(32), key, np.zeros_like(c0)
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = second >> half ^ c1 ^ k0, second & low, first >> half ^ c3 ^ k1, first & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return c0, c1, c2, c3


# --- the file ---------------------------------------------------------------------------------------------------------


def png(image: Array) -> bytes:
    """Return uint8 pixels (H, W, 3) as a PNG file."""
    height, width, _ = image.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folder, prompt, output, seed = [*sys.argv[1:], *("out.png", "0")[len(sys.argv) - 3 :]]
    main(Path(folder), prompt, Path(output), int(seed))
