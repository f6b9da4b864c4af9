"""What is known of Fashion-MNIST, the default data set: Xiao, Rasul and Vollgraf, arXiv 1708.07747."""

from __future__ import annotations

from typing import Final

from mlapp.schema import IdxName

NAME: Final = "fashion_mnist"
CLASSES: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SYSTEM_FOLDER: Final = "/usr/share/datasets/fashion-mnist"
OFFICIAL_URL: Final = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DEBIAN_PACKAGE: Final = "dataset-fashion-mnist"
# Of the decompressed files: Debian compresses them anew, so the .gz files differ from Zalando's.
SHA256: Final[dict[IdxName, str]] = {
    "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
