"""Speed and memory of MoDiff: training images per second, and seconds for 16 samples of one 128×128 image.

Training goes through `modiff.training.loop.train` on simulated images: a step is batch, loss, backward, clipping,
optimiser, moving average and log. Each figure is the median after warm-up over steps (ten at a time on a GPU) or draws;
each configuration runs in a process of its own, whose peak memory is reported. With MCA and LDF as the preset has them
and both off; on whole images (crop 0, window 0) and on the preset's own squares. Weights are fresh: no figure depends
on them but the number of samples that are denoised "as drawn", which is recorded.

    python tools/model_speed.py [--preset lidc] [--threads 2] [--device cuda] [--json speed.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

WARM_UP = 2  # lines of the log, or draws, that are not counted
_EVERY = 10  # steps per line of the log on a GPU, which works on while the CPU starts the next: a line waits for it
PARTS = {"as the preset": {}, "MCA and LDF off": {"mca": {"enabled": False}, "ldf": {"enabled": False}}}
AREAS = {"whole images": {"crop": 0, "window": 0}, "the preset's squares": {}}
RATERS, PATIENTS, IMAGES_PER_PATIENT = 4, 30, 3  # of the simulated store: patients of all splits

Job = dict[str, Any]
Record = dict[str, Any]


def configuration(job: Job) -> Any:
    """The preset with a part switched off and an area, and a budget of as many steps as are timed."""
    from modiff.config.run import build_config

    every = _EVERY if job["device"] == "cuda" else 1
    steps = (WARM_UP + job["repeats"]) * every
    config = build_config(preset=job["preset"], changes={"model": PARTS[job["parts"]] | AREAS[job["area"]]})
    size = job["batch_size"] or config.training.batch_size
    training = replace(
        config.training,
        batch_size=size,
        budget=f"{steps * size}img",
        log_every=every,
        validate_every=10**9,
        save_every=10**9,
    )
    device = "gpu" if job["device"] == "cuda" else "cpu"
    trainer = replace(config.trainer, accelerator=device, precision=job["precision"])
    return replace(config, training=training, trainer=trainer)


def training_speed(job: Job, folder: Path) -> list[Record]:
    """Images per second of each step after warm-up, as the run's own log has them."""
    from modiff.methods.run_folder import LOG
    from modiff.training.loop import train

    config = configuration(job)
    train(config, job["store"], folder / "run", quiet=True)
    lines = [json.loads(line) for line in (folder / "run" / LOG).read_text(encoding="utf-8").splitlines()]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line][-job["repeats"] :]
    return [_record(job, "training", "images/s", rates) | {"batch_size": config.training.batch_size}]


def sampling_speed(job: Job, folder: Path) -> list[Record]:
    """Seconds for n samples of one image, encoding included: all of them denoised, and as presence draws them."""
    import torch

    from modiff.data.loading import load
    from modiff.methods.registry import build
    from modiff.types import DataSpec

    settings = configuration(job).model
    torch.manual_seed(0)
    model = build("modiff", settings, DataSpec.of(raters=RATERS, prompt="centre")).eval().to(job["device"])
    _quiet_label_map(model)
    images = load(job["store"], "test").batch(range(1)).to(job["device"]).image
    found = []
    for presence in ("all denoised", "as drawn") if model.head is not None else ("as drawn",):
        seconds, denoised = [], []
        for repeat in range(-WARM_UP, job["repeats"]):
            taken, number = _draw(model, images, job, forced=presence == "all denoised", seed=repeat)
            if repeat >= 0:
                seconds.append(taken)
                denoised.append(number)
        record = _record(job, "sampling", "seconds", seconds) | {"presence": presence, "n": job["n"]}
        found.append(record | {"steps": settings.diffusion.sampling_steps, "denoised": statistics.mean(denoised)})
    return found


def _quiet_label_map(model: Any) -> None:
    """Makes the fresh head's label map empty: one that reached the window's border would widen the window."""
    import torch

    if model.head is not None:
        torch.nn.init.zeros_(model.head.map_out.weight)
        torch.nn.init.constant_(model.head.map_out.bias, -10.0)


def _draw(model: Any, image: Any, job: Job, *, forced: bool, seed: int) -> tuple[float, int]:
    """Seconds, and how many of the samples were denoised."""
    import torch

    seeds = torch.tensor([seed], device=image.device)
    _wait(job)
    start = time.perf_counter()
    with torch.inference_mode():
        encoding = model.encode(image)
        if forced:
            encoding = model.surely_present(encoding)
        samples = model.sample(encoding, job["n"], seeds=seeds)
    _wait(job)
    return time.perf_counter() - start, int(samples.present.sum())


def _wait(job: Job) -> None:
    if job["device"] == "cuda":
        import torch

        torch.cuda.synchronize()


def _record(job: Job, figure: str, unit: str, values: list[float]) -> Record:
    """A figure: the median of its repeats, and the memory that its process took at most."""
    return {
        "figure": figure,
        "unit": unit,
        "value": statistics.median(values),
        "repeats": values,
        "preset": job["preset"],
        "parts": job["parts"],
        "area": job["area"],
        "size": job["size"],
        "peak_memory": peak_memory(job["device"]),
    }


def peak_memory(device: str) -> dict[str, int]:
    """Bytes that this process held at most: of the host's memory, and of the GPU's."""
    found = {"host": _peak_host()}
    if device == "cuda":
        import torch

        found["device"] = torch.cuda.max_memory_allocated()
    return found


def _peak_host() -> int:
    # ru_maxrss may count the process that started this one; Linux knows this program's own.
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    kilobytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes


def work(job: Job) -> list[Record]:
    """One configuration's figures, in a process of its own."""
    import torch

    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as folder:
        measure = training_speed if job["figure"] == "training" else sampling_speed
        return measure(job, Path(folder))


def made(args: argparse.Namespace) -> dict[str, Any]:
    """How the figures were made."""
    import torch

    from modiff.devices import device_name
    from modiff.evaluation import provenance

    torch.set_num_threads(args.threads)
    return {
        "command": provenance.command_line(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "device": device_name(args.device),
        "threads": args.threads,
        "precision": args.precision,
        "date": provenance.now(),
    }


def jobs(args: argparse.Namespace, store: Path) -> list[Job]:
    """Every configuration to measure, as plain data for another process."""
    names = ("preset", "device", "precision", "threads", "repeats", "batch_size", "size", "n")
    common = {name: getattr(args, name) for name in names} | {"store": str(store)}
    return [
        common | {"figure": figure, "parts": parts, "area": area}
        for figure in args.figures
        for parts in PARTS
        for area in AREAS
    ]


def simulate(path: Path, size: int) -> Path:
    """A store of simulated nodules that somebody marks, as LIDC's crops are chosen: all of them are denoised."""
    from modiff.config.data import PhantomConfig
    from modiff.data.importers.phantom import write_phantom
    from modiff.data.phantom.case import make_case
    from modiff.data.store import Store, StoreWriter

    spacing = 0.7 if size >= 64 else 44.8 / size  # the largest lesions fit
    config = PhantomConfig(
        size=size, spacing=spacing, raters=RATERS, patients=PATIENTS, images_per_patient=IMAGES_PER_PATIENT
    )
    single = replace(config, patients=1, images_per_patient=1)
    with Store.open(write_phantom(path.with_name("one.h5"), single, progress=False)) as store:
        info = store.info
    with StoreWriter(path, info) as writer:
        for patient, index in itertools.product(range(PATIENTS), range(IMAGES_PER_PATIENT)):
            case = make_case(config, patient, index)
            if case.masks.any():
                read = [True] * RATERS
                writer.add(case.image, case.masks, read, case=case.name, patient=case.patient, split=case.split)
    return path


def line(record: Record) -> str:
    """A figure as a line of a Markdown table."""
    value = f"{record['value']:.3g} {record['unit']}"
    if record["figure"] == "sampling":
        value += f" ({record['denoised']:.0f} of {record['n']} denoised, {record['steps']} steps)"
    memory = " + ".join(f"{held / 2**20:,.0f} MiB {where}" for where, held in record["peak_memory"].items())
    what = record["figure"] + (f", {record['presence']}" if "presence" in record else "")
    return f"| {what} | {record['parts']} | {record['area']} | {value} | {memory} |"


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--preset", default="lidc", help="of the method modiff (lidc)")
    made.add_argument("--figures", nargs="+", choices=("training", "sampling"), default=("training", "sampling"))
    made.add_argument("--threads", type=int, default=len(_cores()), help="of the CPU (all cores)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--precision", choices=("auto", "32-true", "bf16-mixed"), default="auto", help="of training")
    made.add_argument("--repeats", type=int, default=7, help="steps and draws that are timed (7)")
    made.add_argument("--batch-size", type=int, help="images per training step (the preset's)")
    made.add_argument("--size", type=int, default=128, help="side of the images in pixels (128)")
    made.add_argument("-n", type=int, default=16, help="samples of the image (16)")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the records here")
    return made


def _cores() -> range:
    import os

    return range(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def main() -> None:
    """Measures, prints a table, writes the records."""
    args = parser().parse_args()
    if args.repeats < 1 or args.threads < 1:
        raise SystemExit("--repeats and --threads: 1 or more")
    found: list[Record] = []
    print("| figure | MCA and LDF | area | median | peak memory |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        store = simulate(Path(folder) / "simulated.h5", args.size)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
            for records in pool.map(work, jobs(args, store)):
                found += records
                print("\n".join(map(line, records)), flush=True)
    if args.json:
        from modiff.io.output import write_text

        write_text(args.json, json.dumps({"made": made(args), "records": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
