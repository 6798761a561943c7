"""The terms a tokenizer is trained for: closed forms, and gradients that stay where they belong."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vqdiff.foundation.errors import InputError
from vqdiff.image_tokenizers import CompactConfig, CompactTokenizer
from vqdiff.image_tokenizers.losses import (
    AdversarialConfig,
    PatchDiscriminator,
    PerceptualConfig,
    PerceptualDistance,
    ReconstructionLoss,
    TokenizerObjective,
    adaptive_weight,
    hinge_loss,
)

SMALL = CompactConfig(16, (8, 16), (0, 1), (1, 1), num_codes=32, code_dim=4)
CRITIC = AdversarialConfig(weight=0.5, start=3, ramp=4, channels=8, levels=2)


def test_reconstruction_loss_in_closed_form() -> None:
    decoded, pixels = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    decoded[..., 1] = 0.5  # half of the pixels are wrong by 1/2; every horizontal difference is, no vertical one
    loss = ReconstructionLoss(absolute=1.0, squared=10.0, gradient=100.0)(decoded, pixels)
    torch.testing.assert_close(loss, torch.tensor(0.25 + 10 * 0.125 + 100 * 0.5))


class TwoMaps(nn.Module):
    """The pixels, and twice the pixels."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [pixels, 2 * pixels]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    torch.jit.script(TwoMaps()).save(str(tmp_path / "network.pt"))
    return tmp_path / "network.pt"


def test_perceptual_distance_is_between_directions_of_features(network: Path) -> None:
    distance = PerceptualDistance(network)
    pixels = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    other = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert distance(pixels / 3, pixels) == 0
    assert distance(other, pixels) == 4  # |e1 - e3|² of either map
    half = torch.cat([other, pixels])
    assert distance(half, pixels.expand(2, -1, -1, -1)) == 2


def test_efficientnet_is_the_default_and_learns_nothing() -> None:
    distance = PerceptualDistance().train()
    pixels = torch.rand(2, 3, 32, 32)
    decoded = pixels.clone().requires_grad_(True)
    assert distance(decoded, pixels) == 0
    before = {name: value.clone() for name, value in distance.state_dict().items()}
    blurred = nn.functional.avg_pool2d(decoded, 3, 1, 1)
    distance(blurred, pixels).backward()
    assert decoded.grad is not None
    assert decoded.grad.abs().sum() > 0
    assert not any(part.training for part in distance.modules())
    assert all(parameter.grad is None for parameter in distance.parameters())
    assert all(torch.equal(value, before[name]) for name, value in distance.state_dict().items())


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "network.pt").write_bytes(b"no such thing")
    with pytest.raises(InputError, match="not a TorchScript file"):
        PerceptualDistance(tmp_path / "network.pt")
    with pytest.raises(InputError, match="not a TorchScript file"):
        PerceptualDistance(tmp_path / "missing.pt")


def test_hinge_loss_in_closed_form() -> None:
    assert hinge_loss(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, -3.0])) == 0
    assert hinge_loss(torch.tensor([0.0, 2.0]), torch.tensor([0.5, -0.5])) == (0.5 + 1.0) / 2


def test_a_score_belongs_to_its_picture() -> None:
    critic, pixels = PatchDiscriminator(8, 3), torch.rand(4, 3, 32, 32)
    assert critic(pixels).shape == (4, 1, 4, 4)
    torch.testing.assert_close(critic(pixels)[1:2], critic(pixels[1:2]))


def test_frozen_scores_are_the_same_and_move_only_the_pixels() -> None:
    critic, pixels = PatchDiscriminator(8, 2), torch.rand(2, 3, 16, 16, requires_grad=True)
    assert torch.equal(critic.frozen(pixels), critic(pixels))
    critic.frozen(pixels).sum().backward()
    assert pixels.grad is not None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in critic.parameters())


def test_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer() -> None:
    last, hidden = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0])
    decoded = last * hidden
    # d(6·sum)/dlast = 6·hidden, of norm 30; d(decoded[0]²)/dlast = (2·3·3, 0), of norm 18
    weight = adaptive_weight(6 * decoded.sum(), decoded[0] ** 2, last)
    torch.testing.assert_close(weight, torch.tensor(30 / (18 + 1e-4)))
    assert not weight.requires_grad
    assert adaptive_weight(decoded.sum(), 0 * decoded.sum(), last, most=7.0) == 7


def objective(**terms: object) -> TokenizerObjective:
    torch.manual_seed(0)
    one = TokenizerObjective(
        CompactTokenizer(SMALL),
        ReconstructionLoss(),
        terms.get("perceptual", PerceptualConfig()),  # type: ignore[arg-type]
        terms.get("adversarial", CRITIC),  # type: ignore[arg-type]
    )
    torch.manual_seed(1)
    for block in one.tokenizer.decoder.modules():  # no zeros through which no gradient would come
        if isinstance(block, nn.Conv2d):
            nn.init.normal_(block.weight, std=0.1)
    return one.eval()  # the codebook rests


def gradients(module: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in module.parameters()]
    return [gradient for gradient in found if gradient is not None]


def test_both_players_learn_from_one_pass_as_if_each_were_alone() -> None:
    pixels, step = torch.rand(4, 3, 16, 16), torch.tensor(5)
    both = objective()
    assert both.discriminator is not None
    loss, metrics = both(pixels, step)
    loss.backward()

    alone = objective()
    assert alone.discriminator is not None
    alone.requires_grad_(False)
    alone.discriminator.requires_grad_(True)
    decoded = alone.tokenizer(pixels).pixels
    critic = hinge_loss(alone.discriminator(pixels), alone.discriminator(decoded))
    critic.backward()
    torch.testing.assert_close(gradients(both.discriminator), gradients(alone.discriminator))
    torch.testing.assert_close(metrics["critic"], critic.detach())

    alone = objective()
    assert alone.discriminator is not None
    alone.discriminator.requires_grad_(False)
    out = alone.tokenizer(pixels)
    generator = ReconstructionLoss()(out.pixels, pixels) + out.loss
    generator = generator + metrics["adversarial_weight"] * -alone.discriminator(out.pixels).mean()
    generator.backward()
    torch.testing.assert_close(gradients(both.tokenizer), gradients(alone.tokenizer))
    torch.testing.assert_close(loss.detach(), (generator + critic).detach())


def test_the_critic_waits_and_then_gains_weight() -> None:
    pixels, one = torch.rand(2, 3, 16, 16), objective()
    plain = objective(adversarial=AdversarialConfig())
    loss, metrics = one(pixels, torch.tensor(2))
    loss.backward()
    assert loss == plain(pixels, torch.tensor(2))[0]
    assert "critic" not in metrics
    assert one.discriminator is not None
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients(one.discriminator))
    assert len(gradients(one.discriminator)) == len(list(one.discriminator.parameters()))  # DDP waits for all
    weights = [float(one(pixels, torch.tensor(step))[1]["adversarial_weight"]) for step in (3, 5, 7, 100)]
    assert weights[0] == 0 < weights[1]
    assert weights[1:] == pytest.approx([weights[1], 2 * weights[1], 2 * weights[1]])


def test_terms_may_see_less_of_an_image(network: Path) -> None:
    pixels = torch.rand(2, 3, 16, 16)
    whole = objective()
    reduced = objective(perceptual=PerceptualConfig(0.1, network, size=4))
    decoded = whole.tokenizer(pixels).pixels
    seen = [nn.functional.avg_pool2d(one, 4) for one in (decoded, pixels)]
    perceptual = reduced(pixels, torch.tensor(0))[1]["perceptual"]
    torch.testing.assert_close(perceptual, PerceptualDistance(network)(*seen).detach())

    cropped = objective(adversarial=replace(CRITIC, crop=8))
    places = set[tuple[int, int]]()
    for step in range(4, 12):
        critic = cropped(pixels, torch.tensor(step))[1]["critic"]
        assert critic == cropped(pixels, torch.tensor(step))[1]["critic"]
        assert whole.discriminator is not None
        for top, left in product(range(9), range(9)):
            real, made = (one[..., top : top + 8, left : left + 8] for one in (pixels, decoded))
            if torch.isclose(critic, hinge_loss(whole.discriminator(real), whole.discriminator(made)), rtol=1e-6):
                places.add((top, left))
                break
        else:
            pytest.fail("the critic saw no square of the image")
    assert len(places) > 3


def test_all_terms_together_learn(network: Path) -> None:
    torch.manual_seed(0)
    one = TokenizerObjective(
        CompactTokenizer(SMALL),
        ReconstructionLoss(),
        PerceptualConfig(0.1, network),
        AdversarialConfig(0.1, 20, 20, 8, 2),
    ).train()
    pixels = torch.rand(8, 3, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    optimizer = torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], lr=3e-3)
    scores = list[float]()
    for step in range(80):
        loss, metrics = one(pixels, torch.tensor(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scores.append(float(metrics["psnr"]))
    assert scores[-1] > scores[0] + 5
    assert metrics.keys() == {"psnr", "perplexity", "perceptual", "adversarial", "adversarial_weight", "critic"}
