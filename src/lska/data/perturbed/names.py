"""Corruptions of ImageNet-C and ImageNet-C-bar, their severities and the folders that the published sets keep them in.

ImageNet-C: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019. ImageNet-C-bar: Mintun, Kirillov and Xie, "On Interaction Between Augmentations and Corruptions in Natural
Corruption Robustness", NeurIPS 2021. Imports nothing.
"""

STANDARD = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The 15 corruptions that the usual mean corruption error of ImageNet-C averages over, in the published order."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The 4 corruptions that ImageNet-C holds out for validation; the released LSKA script averages over them too."""

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": STANDARD[:3], "blur": STANDARD[3:7], "weather": STANDARD[7:11], "digital": STANDARD[11:], "extra": EXTRA,
}  # fmt: skip
"""Corruptions of ImageNet-C in each of its published archives."""

C_BAR: dict[str, tuple[float, ...]] = {
    "blue_noise_sample": (0.8, 1.6, 2.4, 4.0, 5.6),
    "plasma_noise": (4.75, 7.0, 8.5, 9.25, 10.0),
    "checkerboard_cutout": (2.0, 3.0, 4.0, 5.0, 6.0),
    "cocentric_sine_waves": (3.0, 5.0, 8.0, 9.0, 10.0),
    "single_frequency_greyscale": (1.0, 1.5, 2.0, 4.5, 5.0),
    "brownish_noise": (1.0, 2.0, 3.0, 4.0, 5.0),
    "perlin_noise": (4.6, 5.2, 5.8, 7.6, 8.8),
    "sparkles": (1.0, 2.0, 3.0, 5.0, 6.0),
    "inverse_sparkles": (1.0, 2.0, 4.0, 9.0, 10.0),
    "caustic_refraction": (2.35, 3.2, 4.9, 6.6, 9.15),
}
"""The 10 corruptions of ImageNet-C-bar (published spelling), each with its five severities on a scale of 0 to 10.

They were chosen to match the five severities of ImageNet-C in difficulty (published imagenet_c_bar.csv).
"""

FAMILIES: dict[str, tuple[str, ...]] = {"c": STANDARD + EXTRA, "c_bar": tuple(C_BAR)}
"""Corruptions of each family, `c` for ImageNet-C and `c_bar` for ImageNet-C-bar."""

SEVERITIES = (1, 2, 3, 4, 5)
"""Severities of every corruption, from the mildest."""


def severity_folder(family: str, corruption: str, severity: int) -> str:
    """Folder of a severity inside that of its corruption, as the published sets name it: `3` in ImageNet-C; in
    ImageNet-C-bar the value on its own scale with two decimals, such as `4.90`.
    """
    return str(severity) if family == "c" else f"{C_BAR[corruption][severity - 1]:.2f}"
