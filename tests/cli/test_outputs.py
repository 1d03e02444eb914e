"""An output that cannot be written is one line with exit status 2 in every verb, and nothing half-written stays."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_training import MODEL

from modiff import cli
from modiff.errors import DataError
from modiff.io.output import alone, output_folder, replacing_all, write_text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a run of a few steps, its evaluation, a picture, and samples and raters in files."""
    folder = tmp_path_factory.mktemp("outputs")
    words = ["import", "phantom", "--patients", "12", "--images-per-patient", "2", "-o", str(folder / "store.h5")]
    assert cli.main(words) == 0
    (folder / "small.yaml").write_text(
        "preset: quick\ntraining: {budget: 16img, batch_size: 4, validation_images: 4}\n"
        f"model: {MODEL}\ntrainer: {{accelerator: cpu, precision: 32-true}}\n".replace("'", '"')
    )
    words = ["train", "--config", str(folder / "small.yaml"), "--data", str(folder / "store.h5")]
    assert cli.main([*words, "-o", str(folder / "run")]) == 0
    words = ["evaluate", str(folder / "run"), "--data", str(folder / "store.h5"), "-n", "2", "--steps", "2"]
    assert cli.main([*words, "-o", str(folder / "run" / "evaluation")]) == 0
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "image.png")
    for kind in ("samples", "raters"):
        for number in range(2):
            path = folder / kind / "case" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((noise > 100 + 20 * number).astype(np.uint8)).save(path)
    return folder


VERBS = {
    "sample": "sample {run} {image} -n 1 --steps 1 -o {out}",
    "evaluate": "evaluate {run} --data {store} -n 2 --steps 2 -o {out}",
    "evaluate files": "evaluate {samples} --truth {raters} -n 2 -o {out}",
    "report": "report {run} -o {out}",
    "publish": "publish {run} {out}",
    "check": "check {store} --html {out}",
    "info": "info {store} --contact-sheet {out}.png",
    "import": "import phantom --patients 12 -o {out}",
    "train": "train --config {config} --data {store} -o {out}",
    "compare": "compare {result} {result} --names a b -o {out}",
    "benchmark": "benchmark --methods prob_unet --data {store} --budget 64img --seeds 1 -o {out}",
    "demo": "demo --budget 64img --patients 60 --quiet -o {out}",
}


def words_of(verb: str, made: Path, out: Path) -> list[str]:
    (result,) = (made / "run" / "evaluation").glob("*.json")
    places = {
        "run": made / "run",
        "image": made / "image.png",
        "store": made / "store.h5",
        "config": made / "small.yaml",
    }
    places |= {"samples": made / "samples", "raters": made / "raters", "result": result, "out": out}
    return [word.format(**places) for word in VERBS[verb].split()]


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line with which the command refuses, warnings before it left out."""
    capsys.readouterr()
    status = cli.main(words)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("modiff: ")]
    lines = [line for line in lines if not line.startswith("modiff: warning: ")]
    assert status == 2
    assert len(lines) == 1, lines
    return lines[0]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("verb", VERBS)
def test_a_place_below_a_file(verb, made, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    line = refused(capsys, words_of(verb, made, tmp_path / "file" / "out"))
    assert str(tmp_path / "file") in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("size", [1000, 9000])
@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk(verb, size, made, tmp_path, capsys):
    """1000 bytes are not even there for a trial; with 9000 the trial succeeds, and something larger fails later."""
    if size == 9000 and verb in ("evaluate files", "compare", "check", "benchmark"):
        pytest.skip("writes less, or keeps what fails as the run's state")
    with files_up_to(size):
        line = refused(capsys, words_of(verb, made, tmp_path / "out"))
    assert "File too large" in line
    left = [path for path in tmp_path.rglob("*") if "modiff-tmp" in path.name]
    assert left == []
    if verb not in ("train", "demo", "evaluate"):  # these resume from what was finished
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["report", "check", "import"])
def test_a_folder_in_the_files_place_and_a_device(verb, made, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert "is a folder" in refused(capsys, words_of(verb, made, tmp_path / "out"))
    assert "not a regular file" in refused(capsys, words_of(verb, made, Path("/dev/full")))
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("verb", ["sample", "evaluate", "evaluate files", "train", "compare", "benchmark"])
def test_a_folder_in_which_another_process_works(verb, made, tmp_path, capsys):
    out = tmp_path / "out"
    with output_folder(out) if verb == "sample" else alone(out):
        line = refused(capsys, words_of(verb, made, out))
    assert "another process" in line


def test_what_a_killed_process_left_is_removed_and_does_not_block(made, tmp_path):
    code = (
        "import os, signal, sys\nfrom modiff.io.output import output_folder\n"
        "with output_folder(sys.argv[1]) as folder:\n"
        " (folder / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert [path.name for path in tmp_path.iterdir()] == [".out.modiff-tmp"]
    assert cli.main(words_of("sample", made, tmp_path / "out")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "half").exists()


def test_of_two_samplings_into_one_folder_the_second_is_refused(made, tmp_path):
    words = [sys.executable, "-m", "modiff", *words_of("sample", made, tmp_path / "out"), "-n", "64"]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    assert "another process" in "".join(said) or "has files already" in "".join(said)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_reads_what_is_printed(made, unbuffered):
    command = [sys.executable, "-m", "modiff", "info", str(made / "store.h5"), "--json"]
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_standard_output():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "modiff", "--version"]
        environment = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr == "modiff: standard output: No space left on device\n"


def test_a_store_that_another_program_writes(made, tmp_path, capsys):
    store = tmp_path / "store.h5"
    shutil.copy(made / "store.h5", store)
    code = "import h5py, sys\nwith h5py.File(sys.argv[1], 'r+'):\n print('open', flush=True); sys.stdin.read()\n"
    command = [sys.executable, "-c", code, str(store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        model, files = ["evaluate", str(made / "run"), "--data"], ["evaluate", str(made / "samples"), "--truth"]
        for words in (["info"], model, files):
            assert "in use by another program" in refused(capsys, [*words, str(store)])
        assert cli.main(["check", str(store)]) == 2
        assert "in use by another program" in capsys.readouterr().out
        other.communicate()


def test_a_figure_stays_away_where_its_numbers_cannot_be_written(tmp_path):
    def both() -> None:
        with replacing_all(tmp_path / "a.json", tmp_path / "a.png") as (record, figure):
            figure.write_text("drawn")
            with files_up_to(1000):
                write_text(record, "x" * 2000)

    with pytest.raises(DataError, match=rf"^{tmp_path}/a\.json: cannot be written"):
        both()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", ["", "--html {out}", "--json", "--as folder --show 1"])
def test_options_of_a_source_stand_behind_all_of_check(made, tmp_path, before):
    words = ["check", str(made / "raters"), *before.format(out=tmp_path / "page").split()]
    assert cli.main([*words, "--", "--image", "{case}/0", "--mask", "{case}/{rater}"]) in (0, 2)
    assert (tmp_path / "page").exists() == ("--html" in before)
