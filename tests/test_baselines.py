import math

import pytest
import torch
from torch import Tensor

from repalign.baselines import GaborEnergy, Pixels, build

SIZE, GRID = 64, 4
FREQUENCIES = (4.0, 8.0, 16.0)


@pytest.fixture(scope="module")
def model() -> GaborEnergy:
    return GaborEnergy(image_size=SIZE, frequencies=FREQUENCIES, grid=GRID)


def grating(
    frequency: float, degrees: float, *, phase: float = 0.0, amplitude: float = 0.4
) -> Tensor:
    """One grey grating; 0° varies along a row, frequency is in cycles per image."""
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    angle = math.radians(degrees)
    along = (column * math.cos(angle) + row * math.sin(angle)) / SIZE
    image = 0.5 + amplitude * torch.cos(2 * math.pi * frequency * along + phase)
    return image.expand(1, 3, SIZE, SIZE)


def centre(model: GaborEnergy, images: Tensor) -> Tensor:
    """Energy [frequency, orientation] in the cells that the border does not reach."""
    maps = model.energy(images[:, :1])[0, :, 1:-1, 1:-1].mean(dim=(-2, -1))
    return maps.view(len(model.frequencies), len(model.orientations))


def test_pixels_are_the_image_in_a_layer_that_can_be_hooked():
    images = torch.rand(2, 3, 5, 7)
    seen = []
    pixels = Pixels()
    pixels.get_submodule("pixels").register_forward_hook(lambda _m, _i, out: seen.append(out))
    assert torch.equal(pixels(images), images.flatten(1))
    assert torch.equal(seen[0], images)
    assert not list(pixels.parameters())


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_energy_ignores_phase(model, frequency):
    phases = torch.linspace(0, 2 * math.pi, 9)
    energies = torch.stack(
        [centre(model, grating(frequency, 45.0, phase=float(p))).max() for p in phases]
    )
    assert float((energies.max() - energies.min()) / energies.mean()) < 0.02


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("frequency", range(1, 3))
def test_energy_peaks_at_the_planted_frequency_and_orientation(model, frequency, orientation):
    image = grating(FREQUENCIES[frequency], model.orientations[orientation], phase=0.7)
    energy = centre(model, image)
    assert divmod(int(energy.argmax()), 8) == (frequency, orientation)
    orthogonal = energy[frequency, (orientation + 4) % 8]
    assert float(orthogonal) < 0.05 * float(energy.max())


def test_energy_of_a_matched_grating_is_its_amplitude():
    wide = GaborEnergy(image_size=SIZE, frequencies=(16.0,), grid=8)
    for amplitude in (0.1, 0.4):
        energy = wide.energy(grating(16.0, 0.0, amplitude=amplitude)[:, :1])[0, 0, 3:5, 3:5]
        torch.testing.assert_close(energy, torch.full_like(energy, amplitude), rtol=1e-3, atol=0)


def test_bandwidth_is_the_full_width_at_half_amplitude():
    model = GaborEnergy(image_size=256, frequencies=(32.0,), n_orientations=1, bandwidth=1.0)
    low, high = 32 * 2 / 3, 32 * 4 / 3  # one octave, evenly about 32 on a linear axis
    column = torch.arange(256) / 256
    for edge in (low, high):
        image = 0.5 + 0.4 * torch.cos(2 * math.pi * edge * column).expand(1, 1, 256, 256)
        energy = model.energy(image)[0, 0, 3:5, 3:5].mean()
        assert float(energy) == pytest.approx(0.2, rel=0.01)


def test_filters_form_a_quadrature_pair_with_zero_mean(model):
    """The kernels themselves: even cosine, odd sine, both without a mean, equal energy."""
    for bank in model.energy.transfer:
        kernels = torch.fft.ifft2(bank.to(torch.complex128))
        even, odd = kernels.real, kernels.imag
        flipped = torch.roll(kernels.flip(-2, -1), (1, 1), (-2, -1))
        torch.testing.assert_close(even, flipped.real)
        torch.testing.assert_close(odd, -flipped.imag)
        assert float(even.sum((-2, -1)).abs().max()) < 1e-6
        assert float(odd.sum((-2, -1)).abs().max()) < 1e-6
        ratio = even.square().sum((-2, -1)) / odd.square().sum((-2, -1))
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=0.01, rtol=0)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_uniform_image_has_no_energy(model, level):
    assert float(model(torch.full((1, 3, SIZE, SIZE), level)).abs().max()) < 1e-5


def test_energy_ignores_mean_luminance_and_scales_with_contrast(model):
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) / 2
    torch.testing.assert_close(model(image + 0.3), model(image), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(image * 2), model(image) * 2, atol=1e-5, rtol=1e-4)


def test_grey_image_and_its_three_channels_agree(model):
    grey = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    coloured = model(grey.expand(1, 3, SIZE, SIZE))
    torch.testing.assert_close(model(grey), coloured, atol=1e-5, rtol=1e-4)


def test_energy_reports_where_the_grating_is(model):
    image = grating(16.0, 0.0).clone()
    image[..., SIZE // 2 :] = 0.5
    maps = model.energy(image[:, :1])[0, 16]  # 16 cycles per image, 0°
    assert float(maps[:, 0].mean()) > 20 * float(maps[:, 3].mean())


def test_channels_go_by_frequency_then_orientation(model):
    images = torch.rand(2, 3, SIZE, SIZE)
    assert model.energy(images[:, :1]).shape == (2, 3 * 8, GRID, GRID)
    assert model(images).shape == (2, 3 * 8 * GRID * GRID)
    assert model.orientations[4] == 90.0


def test_gabor_energy_differentiates_even_where_it_is_zero(model):
    image = torch.full((1, 3, SIZE, SIZE), 0.5, requires_grad=True)
    model(image).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_baselines_have_nothing_to_train_or_to_store():
    for name in ("pixels", "gabor_energy"):
        baseline = build(name)
        assert not list(baseline.parameters())
        assert not baseline.state_dict()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"frequencies": ()}, "one or more frequencies"),
        ({"frequencies": (0.0,)}, "above 0"),
        ({"bandwidth": 0.0}, "above 0"),
        ({"n_orientations": 0}, "n_orientations=0"),
        ({"grid": 0}, "grid=0, expected 1 to image_size=128"),
        ({"frequencies": (60.0,)}, "80.*128 pixels hold 64 at most"),
    ],
)
def test_impossible_filter_banks_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        GaborEnergy(**parameters)


@pytest.mark.parametrize("shape", [(1, 3, 32, 64), (1, 2, SIZE, SIZE), (3, SIZE, SIZE)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"expected \[image, 1 or 3, 64, 64\]"):
        model(torch.zeros(shape))


def test_unknown_baseline_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'hmax'.*pixels, gabor_energy"):
        build("hmax")
