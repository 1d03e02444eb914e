"""Every setting and its default, in one place: frozen dataclasses, presets, to and from YAML.

A run's configuration is built in this order: defaults < preset < YAML file < flags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from modiff.errors import ConfigError

_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process, what the network predicts, and how samples are drawn."""

    kind: Literal["gaussian", "categorical"] = "gaussian"
    """gaussian: x0 = 2p - 1 diffuses; categorical: CCDM's uniform kernel with a soft x0 (ablation)"""
    steps: int = 250
    """T, the number of steps of the discrete chain (paper §4.1)"""
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    """noise schedule; linear is the usual one rescaled by 1000/T"""
    input_scale: float = 1.0
    """b: multiplies the signal-to-noise ratio by b² (arXiv 2504.05977); below 1 there is more noise at every time"""
    prediction: Literal["eps", "v", "x0"] = "eps"
    """what the network predicts (paper: the noise, eps)"""
    loss: Literal["mse", "ce"] = "mse"
    """ce: the output is P(x0 = 1), trained by cross-entropy and soft Dice; needs prediction x0"""
    ce_weight: float = 20.0
    """weight of the mean cross-entropy a pixel beside soft Dice: in the denoiser's loss (ce) and in the presence head's
    map loss"""
    dice_weight: float = 1.0
    """weight of the soft Dice loss, in the same two"""
    sampler: Literal["ancestral", "ddim", "dpm++"] = "ancestral"
    """how samples are drawn"""
    sampling_steps: int = 250
    """number of network evaluations a sample, by default"""
    spacing: Literal["uniform", "trailing", "quadratic"] = "uniform"
    """how the steps are spaced in time"""
    time: Literal["continuous", "discrete"] = "continuous"
    """times drawn in training: anywhere in (0, 1], or k/T"""


@dataclass(frozen=True)
class LDFConfig:
    """Learnable discrete frequency filter (paper §3.2, Eq. 6 and 7)."""

    enabled: bool = True
    """off: the identity stands in its place (ablation "MCA only")"""
    filter: Literal["ldf", "canny", "gaussian", "roberts", "prewitt", "sobel"] = "ldf"
    """what stands in the LDF's three places: itself, or a fixed edge filter, the losses unchanged (paper Table 4)"""
    kernels: tuple[int, ...] = (3, 5, 7)
    """sizes of the depthwise convolutions in the frequency plane"""
    order: Literal["parallel", "sequential"] = "parallel"
    """the convolutions are summed, or follow one another"""
    transform: Literal["fft", "matrix"] = "fft"
    """fast Fourier transform, or the same by matrix products (export, no complex numbers)"""
    target: Literal["image", "label", "both"] = "both"
    """morphological gradient that L_LDF compares with (Eq. 7): of the image, of the mean label map, half each"""
    weight: float = 0.5
    """λ1 of Eq. 8"""


@dataclass(frozen=True)
class MCAConfig:
    """Morphology-based cross-attention network (paper §3.1, Eq. 1 to 5)."""

    enabled: bool = True
    """off: y^B = f(B), the attention dropped (ablation "LDF only"); with the LDF off too: the image alone"""
    roles: Literal["image_queries", "label_queries"] = "image_queries"
    """image_queries: queries from the image, keys and values from the label (Eq. 1); label_queries: all three from the
    label (Eq. 2), so that the image enters by f(B) alone"""
    dim: int = 64
    """D, width of queries, keys, values and of f(B)"""
    heads: int = 4
    """heads of the self-attention in Eq. 4"""
    condition_channels: int = 8
    """channels of g^B(O^B) at full resolution (Eq. 5)"""
    query_stride: int = 8
    """every how many queries L_MCA looks at; made coprime to the grid's width, so that all columns are met"""
    weight: float = 0.5
    """λ2 of Eq. 8"""


@dataclass(frozen=True)
class PresenceConfig:
    """Whether raters mark anything at all, and whose labels form the map (paper abstract and §1)."""

    mode: Literal["hurdle", "implicit"] = "hurdle"
    """hurdle: a head predicts how many raters mark something; implicit: the denoiser draws empty masks itself"""
    base: int = 24
    """channels of the head's first level"""
    multipliers: tuple[int, ...] = (1, 2, 4, 6)
    """channels of its levels, as multiples of base; each level halves the resolution"""
    stem: int = 2
    """side of the patches that its first layer takes"""
    dropout: float = 0.2
    """share of dropped channels in its blocks"""
    window: int = 64
    """side in pixels of the square around the prompt that it looks at; 0, or data without a prompt: the whole image"""
    jitter: int = 3
    """largest random shift of that square in training, pixels"""
    intensity_augmentation: float = 1.0
    """strength of random gamma, contrast, brightness and noise on what the head sees; 0 for none"""
    map_weight: float = 1.0
    """weight of the auxiliary loss: the raters' mean label map, predicted densely"""
    weight: float = 1.0
    """weight of the cross-entropy of the number of raters who mark something"""
    single_share: float = 0.5
    """share of training draws with one marker; the others take a uniform non-empty subset of the markers"""
    weight_by_markers: bool = True
    """weight an image's one-marker draws by its number of markers: the law of a reader who marks something"""
    null_share: float = 0.1
    """share of training draws in which the subset is hidden from the denoiser"""
    dihedral_average: bool = True
    """average the head's answer over the eight flips and turns of the image when sampling"""


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser's backbone."""

    base: int = 32
    """channels of the first level"""
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 5)
    """channels of each level as multiples of base; each level halves the resolution"""
    blocks: int = 2
    """residual blocks a level"""
    attention: tuple[int, ...] = (8, 16)
    """down-sampling factors, relative to the image, at which there is self-attention"""
    heads: int = 4
    """attention heads"""
    dropout: float = 0.0
    """share of dropped channels in the residual blocks"""
    stem: int = 1
    """side of the patches that the first layer takes and the last layer gives (space to depth)"""


@dataclass(frozen=True)
class MoDiffConfig:
    """MoDiff (MICCAI 2025)."""

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    ldf: LDFConfig = field(default_factory=LDFConfig)
    mca: MCAConfig = field(default_factory=MCAConfig)
    presence: PresenceConfig = field(default_factory=PresenceConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    prompt: bool = True
    """tell the denoiser the position relative to the prompt, where the data has one"""
    window: int = 0
    """side in pixels of the square around the prompt that is denoised when sampling, everything outside being
    background; an image whose predicted label map reaches the square's border is denoised whole. 0: always whole"""
    crop: int = 0
    """side in pixels of the random squares that the denoiser is trained on; 0: the whole image"""
    crop_jitter: int = 8
    """largest shift of a training square from the prompt, pixels; without a prompt squares lie anywhere"""
    crop_anywhere: float = 0.1
    """share of training squares that lie anywhere in the image"""


@dataclass(frozen=True)
class TrainingConfig:
    """How a method is trained."""

    budget: str = "20m"
    """how long in all: minutes (20m), hours (2h), seconds (90s) or images seen (50000img)"""
    batch_size: int = 32
    """images an optimiser step, over all devices"""
    learning_rate: float = 1e-4
    """Adam's step size (paper §4.1)"""
    weight_decay: float = 0.0
    """decoupled weight decay (AdamW); 0 is Adam"""
    warmup: int = 0
    """optimiser steps over which the learning rate rises from 0"""
    decay: Literal["plateau", "cosine", "constant"] = "plateau"
    """plateau: ReduceLROnPlateau on the validation loss (paper §4.1); cosine: to a twentieth over the budget"""
    plateau_factor: float = 0.2
    """factor of ReduceLROnPlateau (paper §4.1)"""
    plateau_patience: int = 10
    """validations without improvement before the learning rate falls (paper §4.1)"""
    gradient_clip: float = 1.0
    """largest norm of the gradient; 0 for none"""
    ema_decay: float = 0.9999
    """the weights' moving average decays by min(this, (1 + step)/(10 + step))"""
    augment: bool = True
    """flips and 90° turns, the same for an image and all its masks"""
    validate_every: int = 500
    """optimiser steps between validations"""
    validation_images: int = 256
    """images of split val that the validation loss looks at, with fixed times and noise"""
    save_every: int = 500
    """optimiser steps between saves of the training checkpoint"""
    log_every: int = 20
    """optimiser steps between lines of the metrics log"""


@dataclass(frozen=True)
class TrainerConfig:
    """Devices and precision, passed to Lightning."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """what to run on"""
    devices: int = 1
    """devices on this machine; more than one is DDP"""
    num_nodes: int = 1
    """machines"""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """auto: bfloat16 where the device computes with it natively, else float32"""


@dataclass(frozen=True)
class RunConfig:
    """What `modiff train` does."""

    method: str = "modiff"
    """what is trained"""
    preset: str | None = None
    """named settings that the file and the flags override"""
    seed: int = 0
    """seed of initial weights, data order, augmentation and noise"""
    model: Any = field(default_factory=MoDiffConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain data: dictionaries, lists, strings, numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(asdict(config))


def _fits(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether plain data fits a type hint, and the value it becomes."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True, value
    if origin is Literal:
        return value in args, value
    if origin in (Union, UnionType):
        for option in args:
            good, made = _fits(value, option)
            if good:
                return True, made
        return False, value
    if origin is tuple:
        good = isinstance(value, (list, tuple)) and all(_fits(item, args[0])[0] for item in value)
        return good, tuple(_fits(item, args[0])[1] for item in value) if good else value
    if kind is NoneType:
        return value is None, value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    if kind is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return True, float(value)  # YAML 1.1 reads 1e-3, without a point, and 1.5e3, without a sign, as text
    if kind in (int, float) and isinstance(value, bool):
        return False, value
    return isinstance(value, kind), value


def _hint_text(kind: Any) -> str:
    return (
        " or ".join(map(repr, get_args(kind))) if get_origin(kind) is Literal else str(getattr(kind, "__name__", kind))
    )


def update(config: Any, changes: Mapping[str, Any], *, path: str | Path | None = None, prefix: str = "") -> Any:
    """A copy of a configuration with changes from plain, nested data; ConfigError for unknown names and wrong types."""
    hints = get_type_hints(type(config))
    known = {item.name for item in fields(config)}
    new: dict[str, Any] = {}
    for key, value in changes.items():
        name = f"{prefix}{key}"
        if key not in known:
            raise ConfigError("no such setting", path=path, field=name, expected=f"one of {', '.join(sorted(known))}")
        current = getattr(config, key)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ConfigError("is a group of settings", path=path, field=name, found=repr(value))
            new[key] = update(current, value, path=path, prefix=f"{name}.")
            continue
        good, made = _fits(value, hints[key])
        if not good:
            raise ConfigError("wrong value", path=path, field=name, found=repr(value), expected=_hint_text(hints[key]))
        new[key] = made
    return replace(config, **new)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as plain data; ConfigError if it is not a mapping."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError("cannot be read", path=path, found=error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("is not YAML", path=path, found=str(error)) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError("is not a mapping of settings", path=path, found=type(data).__name__)
    return data


def presets() -> dict[str, str]:
    """Names of the packaged presets and their first comment line."""
    folder = resources.files("modiff") / "presets"
    found = {}
    for item in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if item.name.endswith(".yaml"):
            found[item.name[:-5]] = item.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
    return found


def read_preset(name: str) -> dict[str, Any]:
    """A packaged preset as plain data; ConfigError naming the presets there are."""
    import yaml

    known = presets()
    if not isinstance(name, str) or name not in known:
        raise ConfigError("no such preset", field="preset", found=repr(name), expected=f"one of {', '.join(known)}")
    data = yaml.safe_load((resources.files("modiff") / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    return data or {}


def model_config(method: str) -> Any:
    """The default model configuration of a method; ConfigError naming the methods there are."""
    from modiff.models import METHODS

    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError("no such method", field="method", found=repr(method), expected=f"one of {', '.join(METHODS)}")
    return METHODS[method].config_class()


def build_config(
    *,
    method: str | None = None,
    preset: str | None = None,
    file: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> RunConfig:
    """One configuration from defaults < preset < YAML file < changes (flags)."""
    written = read_yaml(file) if file is not None else {}
    flags = dict(changes or {})
    preset = preset or flags.get("preset") or written.get("preset")
    chosen = read_preset(preset) if preset else {}
    method = method or flags.get("method") or written.get("method") or chosen.get("method") or RunConfig.method
    config = RunConfig(method=method, preset=preset, model=model_config(method))
    for layer, path in ((chosen, f"preset {preset}"), (written, file), (flags, None)):
        config = update(config, {k: v for k, v in layer.items() if k not in ("method", "preset")}, path=path)
    return config


def config_from_dict(data: Mapping[str, Any], *, path: str | Path | None = None) -> RunConfig:
    """The configuration that `to_dict` wrote."""
    method = data.get("method", RunConfig.method)
    config = RunConfig(method=method, preset=data.get("preset"), model=model_config(method))
    return update(config, {k: v for k, v in data.items() if k not in ("method", "preset")}, path=path)


def parse_budget(text: str) -> tuple[float | None, int | None]:
    """(seconds, images): "90s", "20m", "2h" or "50000img"; the other of the two is None."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|img)", text.strip())
    if not match or float(match[1]) <= 0:
        raise ConfigError(
            "is not a budget", field="training.budget", found=repr(text), expected="20m, 2h, 90s or 50000img"
        )
    number, unit = float(match[1]), match[2]
    if unit == "img":
        return None, round(number)
    return number * {"s": 1, "m": 60, "h": 3600}[unit], None
