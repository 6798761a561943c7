"""The inputs that graphs are checked with: random ones, and those of images that the model generates."""

from __future__ import annotations

import torch
from torch import Tensor

from vqdiff.diffusion import q_sample
from vqdiff.export.graphs import Graph
from vqdiff.model import Model
from vqdiff.sampling import SamplingSettings, sample
from vqdiff.text import ClipTextEncoder, TextEncoder

PROMPTS = ("a red apple", "a cat with sunglasses", "two people walking along a beach at sunset", "a house")
_IMAGES = len(PROMPTS)


@torch.no_grad()
def samples(model: Model, graph: Graph) -> dict[str, tuple[Tensor, ...]]:
    """Return inputs of a graph by kind, "random" and "real", each with the same number of rows.

    Denoisers get a row of each time 1..T.
    """
    generator = torch.Generator().manual_seed(0)
    match graph.name:
        case "text_encoder":
            return _texts(model, graph, generator)
        case "denoiser":
            return _steps(model, generator)
        case _:
            K, L = model.schedule.num_codes, model.num_tokens
            return {"random": (torch.randint(0, K, (_IMAGES, L), generator=generator),), "real": (_images(model),)}


def _texts(model: Model, graph: Graph, generator: torch.Generator) -> dict[str, tuple[Tensor, ...]]:
    encoder, pieces = model.text_encoder, graph.inputs[0].shape[0]
    assert encoder is not None
    random = torch.randint(0, encoder.model.config.vocab_size, (_IMAGES, pieces), generator=generator)
    if isinstance(encoder, ClipTextEncoder):
        kinds = {"random": (random,)}
        if encoder.tokenizer is not None:
            kinds["real"] = (torch.tensor([encoder.ids(text) for text in PROMPTS]),)
        return kinds
    lengths = torch.arange(_IMAGES) % pieces + 1
    mask = (torch.arange(pieces) < lengths[:, None]).long()
    return {"random": (random * mask, mask), "real": padded_ids(encoder)}


def padded_ids(encoder: TextEncoder) -> tuple[Tensor, Tensor]:
    """Return the word pieces of `PROMPTS` as far as there is room, padded with 0, and their mask."""
    ids = torch.zeros(len(PROMPTS), encoder.max_tokens, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(PROMPTS):
        pieces = encoder.tokenizer.encode(text).ids[: encoder.max_tokens]
        ids[row, : len(pieces)], mask[row, : len(pieces)] = torch.tensor(pieces), 1
    return ids, mask


def _steps(model: Model, generator: torch.Generator) -> dict[str, tuple[Tensor, ...]]:
    T, K = model.schedule.num_steps, model.schedule.num_codes
    t = torch.arange(1, T + 1)
    tokens = torch.randint(0, K + 1, (T, model.num_tokens), generator=generator)
    real = _images(model).repeat(T // _IMAGES + 1, 1)[:T]
    noisy = q_sample(model.schedule, real, t, generator)
    conditions = _conditions(model, T)
    if conditions is None:
        return {"random": (tokens, t), "real": (noisy, t)}
    random = conditions.flip(0)
    if conditions.is_floating_point():
        random = torch.randn(conditions.shape, generator=generator)
        random[torch.arange(conditions.shape[1]) > torch.arange(T)[:, None] % conditions.shape[1]] = 0  # padding
    return {"random": (tokens, t, random), "real": (noisy, t, conditions)}


def _conditions(model: Model, rows: int) -> Tensor | None:
    """Return conditions of real prompts or of all labels, each followed by the null condition if there is one."""
    if model.num_classes is not None:
        return torch.arange(rows) % (model.num_classes + 1)
    if (encoder := model.text_encoder) is None:
        return None
    if isinstance(encoder, TextEncoder):
        ids, mask = padded_ids(encoder)
        features = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
    elif encoder.tokenizer is not None:
        features = encoder.encode(PROMPTS)
    else:
        vocabulary = encoder.model.config.vocab_size
        features = encoder.encode_ids(torch.arange(_IMAGES * encoder.max_tokens).view(_IMAGES, -1) % vocabulary)
    null = model.null(_IMAGES)
    both = features if null is None else torch.stack([features, null], 1).flatten(0, 1)
    return both.repeat(rows // len(both) + 1, 1, 1)[:rows]


def _images(model: Model) -> Tensor:
    """Return the tokens of a few images, sampled in a few steps."""
    steps = min(8, model.schedule.num_steps, model.num_tokens)
    settings = SamplingSettings(sampler="strided", steps=steps, guidance=1.0)
    denoise = model.bind(_conditions(model, _IMAGES))
    frames = list(sample(denoise, model.schedule, num_tokens=model.num_tokens, seeds=range(_IMAGES), settings=settings))
    return frames[-1].tokens
