"""What a benchmark trains: the rows of its tables, and for each row and seed one configuration with the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modiff.config.evaluation import BenchmarkConfig
from modiff.config.fields import flatten, merged, setting, to_dict
from modiff.config.run import RunConfig, build_config, check_ranges, presets
from modiff.errors import ConfigError
from modiff.methods.registry import METHODS as methods
from modiff.metrics.registry import columns_of

if TYPE_CHECKING:
    from modiff.evaluation.scoring import EvaluationSettings

Changes = dict[str, Any]
METHODS, ABLATIONS, EDGES, CONTROLS = "methods", "ablations", "edges", "controls"
FILTERS = ("canny", "gaussian", "roberts", "prewitt", "sobel")
MODIFF_PRESET = "lidc"  # unless another is named; the others are trained with the packaged preset of their own name
EVERYONE = "all"  # in place of a method's name in a setting
CONTROL_STEM = 4  # where MoDiff's own preset has none
TRAINING = ("budget", "batch_size", "augment", "deformation", "intensity_augmentation")  # settings that all share
_SHARED = ("seed", "method", "preset", *(f"training.{name}" for name in TRAINING), "trainer")


@dataclass(frozen=True)
class Row:
    """A row of the tables: a method as it is, or with changes. tables: those that it is in."""

    key: str
    method: str
    title: str
    tables: tuple[str, ...]
    changes: Changes = field(default_factory=dict)
    control: str = ""

    def folder(self, seed: int, fold: int | None = None) -> str:
        """Name of the run folder of one seed, and of one fold where there are folds."""
        return f"{self.key}-seed{seed}" + ("" if fold is None else f"-fold{fold}")


def _known() -> dict[str, Row]:
    rows = {key: Row(key, key, method.title, (METHODS,)) for key, method in methods.items()}
    off = {"enabled": False}
    rows["modiff"] = Row("modiff", "modiff", "MoDiff", (METHODS, ABLATIONS, EDGES, CONTROLS))
    parts = {"neither": ("neither", {"ldf": off, "mca": off}), "mca": ("MCA only", {"ldf": off})}
    for name, (title, model) in {**parts, "ldf": ("LDF only", {"mca": off})}.items():
        rows[f"modiff-{name}"] = Row(f"modiff-{name}", "modiff", f"MoDiff, {title}", (ABLATIONS,), {"model": model})
    for name in FILTERS:
        title, changes = f"MoDiff, {name.capitalize()} for LDF", {"model": {"ldf": {"filter": name}}}
        rows[f"modiff-{name}"] = Row(f"modiff-{name}", "modiff", title, (EDGES,), changes)
    for key in ("ccdm", "cimd"):
        title = methods[key].title
        rows[key] = Row(key, key, title, (METHODS, CONTROLS))
        for control, parts_of_modiff in {"stem": "stem", "hurdle": "hurdle", "both": "stem, hurdle and prompt"}.items():
            name = f"{key}-{control}"
            rows[name] = Row(name, key, f"{title} with MoDiff's {parts_of_modiff}", (CONTROLS,), control=control)
    return rows


ROWS = _known()
"""every row that can be asked for, by its key"""


def rows_of(
    methods: Sequence[str], *, ablations: bool = False, edges: bool = False, controls: bool = False
) -> tuple[Row, ...]:
    """The rows of some methods and groups, each once; raises ConfigError for a name that is none."""
    for name in methods:
        if name not in ROWS:
            raise ConfigError("no such method", field="methods", found=name, expected=", ".join(ROWS))
    wanted = [*methods, *(("ccdm", "cimd") if controls else ())]  # what the controls are compared with
    groups = [group for group, asked in ((ABLATIONS, ablations), (EDGES, edges), (CONTROLS, controls)) if asked]
    for group in groups:
        wanted += [key for key, row in ROWS.items() if group in row.tables and (group != CONTROLS or row.control)]
    if not wanted:
        raise ConfigError("nothing to compare", field="methods", found="none", expected=", ".join(ROWS))
    return tuple(ROWS[key] for key in dict.fromkeys(wanted))


@dataclass(frozen=True)
class BenchmarkSettings(BenchmarkConfig):
    """`BenchmarkConfig` with scoring that tables can show; ConfigError for what cannot be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        scoring = self.evaluation()
        for name in ("ns", "select", "thresholds", "metrics"):  # in one order: typed otherwise it is the same scoring
            object.__setattr__(self, name, getattr(scoring, name))
        if not columns_of(self.metrics):
            raise ConfigError("are not shown in the tables", field="metrics", found=", ".join(self.metrics))
        for change in self.changes:
            _change(change)

    def evaluation(self) -> EvaluationSettings:
        """How every run is scored."""
        from modiff.evaluation.scoring import EvaluationSettings
        from modiff.metrics.protocols import PROTOCOLS

        shared = {name: getattr(self, name) for name in ("ns", "select", "thresholds", "metrics", "limit")}
        return EvaluationSettings(protocols=tuple(PROTOCOLS), **shared)


def configure(row: Row, settings: BenchmarkSettings, seed: int) -> RunConfig:
    """The configuration of one run: preset < settings of all < of the method < the row's own < settings of the row."""
    shared = {
        "seed": seed,
        "training": {name: getattr(settings, name) for name in TRAINING},
        "trainer": {"accelerator": settings.accelerator, "devices": settings.devices},
    }
    own = [_control(row, settings)] if row.control else []
    own += [_named(settings, row.key)] if row.key != row.method else []
    changes = merged(_named(settings, EVERYONE), _named(settings, row.method), row.changes, *own, shared)
    return build_config(method=row.method, preset=preset_of(row.key, row.method, settings), changes=changes)


def preset_of(name: str, method: str, settings: BenchmarkSettings) -> str | None:
    """The preset that a row starts from; None for a method without one."""
    usual = MODIFF_PRESET if method == "modiff" else method
    return settings.presets.get(name) or settings.presets.get(method) or (usual if usual in presets() else None)


def _named(settings: BenchmarkSettings, name: str) -> Changes:
    return merged(*(change for found, change in map(_change, settings.changes) if found == name))


def _control(row: Row, settings: BenchmarkSettings) -> Changes:
    """MoDiff's stem, presence head and prompt as this benchmark's MoDiff has them, for another method."""
    modiff = to_dict(configure(ROWS["modiff"], settings, 0).model)
    stem = {"unet": {"stem": modiff["unet"]["stem"] if modiff["unet"]["stem"] > 1 else CONTROL_STEM}}
    hurdle = {"presence": {**modiff["presence"], "mode": "hurdle"}}
    parts: dict[str, Changes] = {"stem": stem, "hurdle": hurdle, "both": {**stem, **hurdle, "prompt": True}}
    return {"model": parts[row.control]}


def _change(text: str) -> tuple[str, Changes]:
    """("modiff", {"model": {"unet": {"base": 32}}}) of "modiff.model.unet.base=32"."""
    expected = "METHOD.group.setting=value"
    (name, change), *_ = setting(text, expected=expected).items()
    if not isinstance(change, dict) or "." not in text.partition("=")[0]:
        raise ConfigError("is not a setting", field="--set", found=repr(text), expected=expected)
    for address in flatten(change):
        if any(address == shared or address.startswith(f"{shared}.") for shared in _SHARED):
            found = f"--set {name}.{address}"
            raise ConfigError(
                "is set for the whole benchmark, not for one method", field=found, hint="It has its own option"
            )
    return name, change


def check_names(rows: Sequence[Row], settings: BenchmarkSettings) -> None:
    """Raises ConfigError where a setting or preset names nothing that is trained, or a configuration cannot be."""
    there = {row.key for row in rows} | {row.method for row in rows}
    # MoDiff's settings reach the controls of others too.
    there |= {"modiff"} if any(row.control for row in rows) else set()
    asked = [("--set", _change(text)[0]) for text in settings.changes] + [("--presets", n) for n in settings.presets]
    for option, name in asked:
        if name not in there and not (name == EVERYONE and option == "--set"):
            expected = ", ".join([*sorted(there), *([EVERYONE] if option == "--set" else [])])
            raise ConfigError("is not a method of this benchmark", field=option, found=name, expected=expected)
    for row in rows:
        check_ranges(configure(row, settings, settings.seeds[0]))
