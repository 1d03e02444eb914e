"""Samples of an image from the ONNX files of `modiff publish --onnx`, with NumPy and onnxruntime alone.

    modiff publish lidc published --onnx
    python tools/onnx_sample.py published image.npy -n 16 -o samples.npy

image.npy: (C,H,W) of the model's size, values as in its training (`intensity` in onnx.json). samples.npy: (N,K,H,W)
maps in [0,1], each one rater's reading, to rounding those of `model.sample(image[None], n, seeds=tensor([seed]))`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

MARKERS, RATER, START = 1, 2, 3  # streams of a sample's seed
GOLDEN, MIX_1, MIX_2 = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser of uint64."""
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return x ^ (x >> np.uint64(31))


def fold(seeds: np.ndarray, counter: int | np.ndarray) -> np.ndarray:
    """New seeds from seeds and a counter."""
    return mix(mix(seeds + GOLDEN) + np.asarray(counter, np.uint64))


def bits(seeds: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    """(N,*shape) random 64-bit integers, each a function of its seed and its place."""
    offsets = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * GOLDEN
    return mix(mix(seeds)[:, None] + offsets).reshape(len(seeds), *shape)


def uniform(seeds: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    """(N,*shape) float32 in (0,1)."""
    return ((bits(seeds, shape) >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def normal(seeds: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(N,*shape) standard normal float32, by Box and Muller."""
    drawn = bits(seeds, shape)
    radius = ((drawn >> np.uint64(32)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    angle = (drawn & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2 * np.pi * 2.0**-32)
    return np.sqrt(-2 * np.log(radius)) * np.cos(angle)


def draw_markers(presence: np.ndarray | None, seeds: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """(N,R) bool: the rater whose reading a sample is, if that rater marks anything.

    presence: (R+1,) distribution of the number of raters who mark something, or (R,) each one's probability.
    """
    raters, u = facts["raters"], uniform(fold(seeds, MARKERS))
    who = np.minimum((uniform(fold(seeds, RATER)) * raters).astype(int), raters - 1)
    markers = np.arange(raters) == who[:, None]
    if presence is None:  # the denoiser draws empty masks itself
        return markers
    if not facts["exchangeable_raters"]:
        return markers & (u < presence[who])[:, None]
    # Of exchangeable raters it does not matter which: the first, with probability E[k]/R.
    nothing = presence @ (1 - np.arange(raters + 1) / raters)
    return (np.arange(raters) == 0) & (u >= nothing)[:, None]


def denoise(
    session: onnxruntime.InferenceSession, x: np.ndarray, facts: dict[str, Any], **given: np.ndarray
) -> np.ndarray:
    """(M,K,h,w) in [0,1] from noise x, by DDIM's steps (Song et al. 2021, Eq. 12)."""
    alpha, sigma = facts["alpha"], facts["sigma"]
    for i, t in enumerate(facts["times"][:-1]):
        x0 = session.run(None, {"x_t": x, "t": np.array(t, np.float32), **given})[0].clip(-1, 1)
        kept = sigma[i + 1] / sigma[i]
        x = np.float32(alpha[i + 1] - alpha[i] * kept) * x0 + np.float32(kept) * x
    return ((x + 1) / 2).clip(0, 1)


def sample(folder: Path, image: np.ndarray, n: int, seed: int) -> np.ndarray:
    """(N,K,H,W) samples of an image (C,H,W) float32; seed: of the case."""
    facts = json.loads((folder / "onnx.json").read_text(encoding="utf-8"))
    process = facts["process"]
    if (process["name"], process.get("prediction"), process.get("sampler")) != ("GaussianProcess", "x0", "ddim"):
        raise SystemExit(f"this example steps by DDIM of a network that predicts x_0; the model's process is {process}")
    if list(image.shape) != facts["image"]:
        raise SystemExit(f"the image is {image.shape}; the model takes {tuple(facts['image'])}")
    encoder = onnxruntime.InferenceSession(folder / "encoder.onnx")
    names = [output.name for output in encoder.get_outputs()]
    encoded = dict(zip(names, encoder.run(None, {"image": image[None]}), strict=True))
    seeds = fold(np.full(n, seed, np.uint64), np.arange(n))
    markers = draw_markers(encoded["presence"][0] if facts["presence"] else None, seeds, facts)
    rows = markers.any(1).nonzero()[0]  # only the samples that mark something are denoised
    classes, padded = len(facts["classes"]), facts["padded"]
    maps = np.zeros((n, classes, *padded), np.float32)
    window = facts["windows"][int("wide" in encoded and bool(encoded["wide"][0]))]
    where = tuple(slice(first, first + side) for first, side in zip(window["corner"], window["size"], strict=True))
    if len(rows):
        noise = normal(fold(seeds[rows], START), (classes, *padded))[:, :, *where]  # of the whole image, then cut
        features = {name: encoded[name].repeat(len(rows), 0) for name in window["features"]}
        session = onnxruntime.InferenceSession(folder / window["file"])
        maps[rows, :, *where] = denoise(session, noise, facts, markers=markers[rows], **features)
    return maps[..., : facts["image"][1], : facts["image"][2]]


def main() -> None:
    """Writes the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of modiff publish --onnx")
    parser.add_argument("image", type=Path, help="(C,H,W), .npy")
    parser.add_argument("-n", type=int, default=16, help="samples (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("samples.npy"))
    args = parser.parse_args()
    made = sample(args.folder, np.load(args.image, allow_pickle=False).astype(np.float32), args.n, args.seed)
    np.save(args.output, made)
    print(f"{args.output}: {len(made)} samples; {(made > 0.5).any((1, 2, 3)).mean():.0%} mark something")


if __name__ == "__main__":
    main()
