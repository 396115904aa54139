#!/usr/bin/env python3
"""What host-train/README.md says of denoising-diffusion-pytorch 2.3.4, shown by running it.

    pip install denoising-diffusion-pytorch==2.3.4 torch==2.15.0
    python3 tests/peers/known_bugs.py
"""
import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet, classifier_free_guidance, learned_gaussian_diffusion, repaint


class Zero(torch.nn.Module):
    """A network that predicts zero and remembers what it was asked."""
    channels, out_dim, self_condition, random_or_learned_sinusoidal_cond = 1, 1, False, False

    def __init__(self):
        super().__init__()
        self.parameter, self.asked = torch.nn.Parameter(torch.zeros(1)), []

    def forward(self, x, t, *_):
        self.asked.append((x, int(t[0])))
        return 0 * x + self.parameter


def immiscible():
    """The mean squared distance of the target from the noise that is really in the state: what a perfect network would lose."""
    for chosen in (False, True):
        torch.manual_seed(0)
        network = Zero()
        diffusion = GaussianDiffusion(network, image_size=4, objective="pred_noise", beta_schedule="linear", immiscible=chosen)
        data, target, t = torch.randn(8, 1, 4, 4), torch.randn(8, 1, 4, 4), torch.full((8,), 500)
        diffusion.p_losses(data, t, noise=target)
        inside = (network.asked[0][0] - diffusion.sqrt_alphas_cumprod[500] * data) / diffusion.sqrt_one_minus_alphas_cumprod[500]
        print(f"immiscible={chosen}: a perfect network's loss is {((inside - target) ** 2).mean():.2f}")


def guidance_of_one():
    network = classifier_free_guidance.Unet(dim=8, num_classes=3, dim_mults=(1, 2))
    diffusion = classifier_free_guidance.GaussianDiffusion(network, image_size=8, timesteps=10, sampling_timesteps=2)
    try:
        diffusion.sample(classes=torch.tensor([0, 1, 2]), cond_scale=1.0)
        print("guidance 1: samples")
    except ValueError as error:
        print(f"guidance 1: ValueError: {error}")


def learned_variance():
    torch.manual_seed(0)
    network = Unet(dim=8, dim_mults=(1, 2), learned_variance=True)
    data, noise, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([5, 5])
    for objective in ("pred_noise", "pred_x0", "pred_v"):
        torch.manual_seed(1)
        diffusion = learned_gaussian_diffusion.LearnedGaussianDiffusion(
            network, image_size=8, timesteps=10, sampling_timesteps=5, objective=objective, min_snr_loss_weight=False)
        try:
            diffusion.sample(1)
            sampled = "samples"
        except Exception as error:  # noqa: BLE001 - whatever it is, is told
            sampled = f"sampling: {type(error).__name__}: {error}"
        print(f"learned variance, {objective}: loss {diffusion.p_losses(data, t, noise=noise):.6f}; {sampled}")


def repaint_times():
    network = Zero()
    diffusion = repaint.GaussianDiffusion(network, image_size=4, timesteps=60, beta_schedule="linear", objective="pred_noise")
    diffusion.p_sample_loop((1, 1, 4, 4), gt=torch.rand(1, 1, 4, 4), mask=torch.ones(1, 1, 4, 4), resample_iter=2)
    times = [t for _, t in network.asked]
    print("RePaint, 60 timesteps, going back from 50: the network is asked at", times[:20])


if __name__ == "__main__":
    immiscible()
    guidance_of_one()
    learned_variance()
    repaint_times()
