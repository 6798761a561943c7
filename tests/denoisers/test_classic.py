"""The published denoiser: numerically equal to the original, prepared or not, and explicit about wrong input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from golden_cases import Case, cases, load
from vqdiff.checkpoints.microsoft import read_denoiser
from vqdiff.denoisers.classic import ClassicConfig, ClassicDenoiser
from vqdiff.denoisers.packed import pack
from vqdiff.foundation.config import build
from vqdiff.foundation.errors import InputError

pytestmark = pytest.mark.numeric

Form = Callable[[ClassicDenoiser], ClassicDenoiser]

DENOISERS = cases("denoiser")
CLASSES = [case for case in DENOISERS if "class_rows" in case["config"]]

SMALL = ClassicConfig(num_codes=7, num_steps=5, grid_size=3, width=12, depth=2, heads=3, mlp_ratio=2)
TEXT = replace(SMALL, text_width=10)
CLASS = replace(SMALL, num_classes=4, conv_mlp=True)


def name(case: Case) -> str:
    return case["case"]


def published(case: Case, data: dict[str, Tensor]) -> ClassicDenoiser:
    config = case["config"]
    state = {key.removeprefix("sd/"): value for key, value in data.items() if key.startswith("sd/")}
    null_class = config.get("null", "").startswith("row")
    reading = read_denoiser(state, heads=config["heads"], grid_size=config["grid"][0], null_class=null_class)
    denoiser = ClassicDenoiser(reading.config).eval()
    denoiser.load_state_dict(reading.weights)
    return denoiser


def condition_of(data: dict[str, Tensor]) -> Tensor | None:
    return data.get("in/cond", data.get("in/label"))


def random_condition(config: ClassicConfig, batch: int) -> Tensor | None:
    if config.text_width is not None:
        return torch.randn(batch, 6, config.text_width)
    if config.num_classes is not None:
        return torch.randint(config.num_classes + 1, (batch,))
    return None


def random_call(config: ClassicConfig, batch: int) -> tuple[Tensor, Tensor, Tensor | None]:
    tokens = torch.randint(config.num_codes + 1, (batch, config.num_tokens))
    return tokens, torch.randint(1, config.num_steps + 1, (batch,)), random_condition(config, batch)


either_form = pytest.mark.parametrize("form", [lambda denoiser: denoiser, pack], ids=["trained", "packed"])


@either_form
@pytest.mark.parametrize("case", DENOISERS, ids=name)
@torch.no_grad()
def test_golden(case: Case, form: Form) -> None:
    data = load(case)
    # Golden steps count from 0.
    logits = form(published(case, data))(data["in/x_t"], data["in/t"] + 1, condition_of(data))
    assert (logits.mT - data["exp/logits"]).abs().max() <= case["tolerance"]["logits_atol"]
    difference = logits.log_softmax(-1).mT - data["exp/log_p_x0"][:, :-1]
    assert difference.abs().max() <= case["tolerance"]["log_p_atol"]


@either_form
@pytest.mark.parametrize("case", CLASSES, ids=name)
@torch.no_grad()
def test_golden_null_class(case: Case, form: Form) -> None:
    data = load(case)
    denoiser = form(published(case, data))
    null = torch.full_like(data["in/label"], 10)
    difference = denoiser(data["in/x_t"], data["in/t"] + 1, null).log_softmax(-1).mT - data["exp/log_p_x0_null"][:, :-1]
    assert difference.abs().max() <= case["tolerance"]["log_p_atol"]


@either_form
@pytest.mark.parametrize("case", CLASSES, ids=name)
@torch.no_grad()
def test_each_row_has_its_own_null(case: Case, form: Form) -> None:
    """The original looks at the first label only."""
    data = load(case)
    labels = data["in/label"].clone()
    labels[1:] = 10
    logits = form(published(case, data))(data["in/x_t"], data["in/t"] + 1, labels)
    expected = torch.cat([data["exp/log_p_x0"][:1], data["exp/log_p_x0_null"][1:]])[:, :-1]
    assert (logits.log_softmax(-1).mT - expected).abs().max() <= case["tolerance"]["log_p_atol"]


@either_form
@pytest.mark.parametrize("config", [TEXT, CLASS, SMALL])
@torch.no_grad()
def test_prepared_condition_gives_the_same_logits(config: ClassicConfig, form: Form) -> None:
    denoiser = form(ClassicDenoiser(config).eval())
    tokens, t, condition = random_call(config, 3)
    prepared = denoiser.prepare(condition)
    for step in (t, t % config.num_steps + 1):
        assert torch.equal(denoiser(tokens, step, prepared), denoiser(tokens, step, condition))


@pytest.mark.parametrize("config", [TEXT, CLASS, SMALL])
def test_every_parameter_is_trained(config: ClassicConfig) -> None:
    denoiser = ClassicDenoiser(config)
    denoiser(*random_call(config, 64)).square().sum().backward()
    for key, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


@pytest.mark.parametrize(
    ("config", "condition", "takes"),
    [
        (TEXT, None, "text features"),
        (TEXT, torch.zeros(2, 6, 12), "text features"),  # 10, or 11 with the tokens' weights
        (TEXT, torch.zeros(2, dtype=torch.int64), "text features"),
        (CLASS, None, "class labels"),
        (CLASS, torch.zeros(2, 6, 10), "class labels"),
        (SMALL, torch.zeros(2, dtype=torch.int64), "no condition"),
    ],
)
def test_wrong_condition(config: ClassicConfig, condition: Tensor | None, takes: str) -> None:
    tokens, t, _ = random_call(config, 2)
    with pytest.raises(InputError, match=f"takes {takes}"):
        ClassicDenoiser(config)(tokens, t, condition)


def test_wrong_number_of_tokens() -> None:
    with pytest.raises(InputError, match="takes 9 tokens per image, got 8"):
        ClassicDenoiser(SMALL)(torch.zeros(1, 8, dtype=torch.int64), torch.ones(1, dtype=torch.int64))


@either_form
@pytest.mark.parametrize("t", [0, 6])
@torch.no_grad()
def test_steps_run_from_1_to_T(t: int, form: Form) -> None:  # noqa: N802
    tokens, _, _ = random_call(SMALL, 1)
    with pytest.raises(IndexError):
        form(ClassicDenoiser(SMALL))(tokens, torch.tensor([t]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_width": 10, "num_classes": 4}, "text or classes"),
        ({"heads": 5}, "not a multiple of heads 5"),
        ({"grid_size": 33}, "1089 tokens do not fit"),
    ],
)
def test_impossible_config(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize("config", [TEXT, CLASS, SMALL])
def test_config_survives_json(config: ClassicConfig) -> None:
    assert build(ClassicConfig, json.loads(json.dumps(asdict(config))), "config.json") == config


def test_bfloat16_takes_features_of_any_precision() -> None:
    model = ClassicDenoiser(ClassicConfig(7, 5, 2, 16, 1, 2, text_width=8)).eval()
    tokens, t, text = torch.randint(0, 8, (3, 4)), torch.tensor([1, 3, 5]), torch.randn(3, 6, 8)
    exact = model(tokens, t, text)
    rough = model.bfloat16()(tokens, t, text)
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()
