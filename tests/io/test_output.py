"""Results exist whole or not at all, and nobody's files are lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from modiff.data.store import check_free
from modiff.errors import DataError
from modiff.io import output
from modiff.io.output import alone, check_output, output_folder, replacing, scratch, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        1 / temporary.write_bytes(b"")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_write_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("one", "two"):
        with replacing(path) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_who_may_read_a_file_is_what_the_user_set_not_what_its_writer_did(tmp_path):
    (tmp_path / "usual").touch()
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("one")
        temporary.chmod(0o600)
    assert (tmp_path / "file.txt").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_text_is_written_as_it_is(tmp_path):
    path = write_text(tmp_path / "new" / "file.txt", "ä\r\nb\n")
    assert path.read_bytes() == b"\xc3\xa4\r\nb\n"


def test_a_folder_appears_when_it_is_finished(tmp_path):
    with output_folder(tmp_path / "out") as folder:
        (folder / "a.png").write_text("a")
        assert not (tmp_path / "out").exists()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    def interrupted(folder: Path) -> None:
        (folder / "a.png").write_text("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "out") as folder:
        interrupted(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="has files already"), output_folder(tmp_path):
        pass


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="is a file"), output_folder(tmp_path / "out", overwrite=True):
        pass


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    with output_folder(tmp_path / "out") as folder:
        (folder / "a.png").write_text("a")
    assert (tmp_path / "out" / "a.png").exists()


def test_overwriting_removes_the_earlier_results_and_only_them(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "outside.png").write_text("mine")
    for name in ("sample-00.png", "sample-01.png", "mine.png", "notes.txt"):
        (out / name).write_text("old")
    files = ["sample-00.png", "sample-01.png", "summary.json", "../outside.png", "notes.txt", 3]
    (out / "summary.json").write_text(json.dumps({"files": files}))
    with output_folder(out, overwrite=True) as folder:
        (folder / "sample-00.png").write_text("new")
        (folder / "summary.json").write_text("{}")
    assert sorted(file.name for file in out.iterdir()) == ["mine.png", "notes.txt", "sample-00.png", "summary.json"]
    assert (out / "sample-00.png").read_text() == "new"
    assert (tmp_path / "outside.png").exists()


def test_what_an_interrupted_replacement_left_goes_with_the_next(monkeypatch, tmp_path):
    def write(*names: str) -> None:
        with output_folder(tmp_path / "out", overwrite=True) as folder:
            for name in names:
                (folder / name).write_text(name)
            (folder / "summary.json").write_text(json.dumps({"files": names}))

    def killed(source, target):
        if Path(target) == tmp_path / "out/2.png":
            raise KeyboardInterrupt
        move(source, target)

    move = os.replace
    write("0.png", "3.png")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write("0.png", "1.png", "2.png")
    assert not (tmp_path / "out/summary.json").exists()
    write("0.png")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["0.png", "summary.json"]


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot make the folder"), output_folder(tmp_path / "file" / "out"):
        pass


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="is a folder; expected a file"), replacing(tmp_path / "out"):
        pytest.fail("known before any work is done")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_place_that_takes_no_files_is_refused_in_one_line(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(DataError, match="cannot be written"), output_folder(tmp_path / "out"):
        pytest.fail("there is no folder to write to")


def test_two_cannot_write_one_thing_at_once(tmp_path):
    with output_folder(tmp_path / "out") as folder:
        with pytest.raises(DataError, match="another process writes this"), output_folder(tmp_path / "out"):
            pytest.fail("it is taken")
        write_text(folder / "a.txt", "a")
    with replacing(tmp_path / "file"):
        with pytest.raises(DataError, match="another process writes this"):
            write_text(tmp_path / "file", "b")
        write_text(tmp_path / "other", "b")
    assert (tmp_path / "out" / "a.txt").read_text() == "a"


def test_where_nothing_can_be_locked_it_is_written_all_the_same(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with output_folder(tmp_path / "out") as folder:
        write_text(folder / "a.txt", "a")
    with alone(tmp_path / "run"):
        write_text(tmp_path / "run" / "b.txt", "b")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == ["out/a.txt", "run/b.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_what_was_left_by_a_killed_process_goes(tmp_path):
    left = tmp_path / ".file.modiff-tmp"
    (left / "deep").mkdir(parents=True)
    (left / "file").write_text("half")
    (left / "link").symlink_to(tmp_path)
    (tmp_path / "mine").write_text("mine")
    write_text(tmp_path / "file", "whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "whole", "mine": "mine"}


@pytest.mark.parametrize("kind", ["store", "folder"])
def test_what_was_left_goes_where_the_result_stands_and_is_kept(tmp_path, kind):
    made = tmp_path / "made"
    (tmp_path / ".made.modiff-tmp").mkdir()  # of a process that was killed after its result took its place
    (made.write_text if kind == "store" else lambda _: write_text(made / "summary.json", "{}"))("whole")
    with pytest.raises(DataError, match="already"):
        check_free(made, overwrite=False) if kind == "store" else check_output(made, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("later", [False, True])
def test_parts_are_kept_for_a_result_that_is_not_there_yet(tmp_path, later):
    store, kept = write_text(tmp_path / "made", "whole"), tmp_path / ".made.partial"
    kept.mkdir()
    write_text(kept / "patient", "done")
    os.utime(kept / "patient", ns=(store.stat().st_mtime_ns + (1 if later else -1),) * 2)
    with pytest.raises(DataError, match="exists already"):
        check_free(store, overwrite=False)
    assert kept.exists() == later


@pytest.mark.parametrize("spare", range(4))
def test_where_no_handle_is_left_nothing_is_left_either(tmp_path, spare):
    (tmp_path / "a").write_text("before")
    bound, taken = resource.getrlimit(resource.RLIMIT_NOFILE), []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, bound[1]))
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(spare):
            os.close(taken.pop())
        with suppress(DataError):
            write_text(tmp_path / "a", "after")
    finally:
        for handle in taken:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, bound)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    write_text(tmp_path / "a", "after")
    assert (tmp_path / "a").read_text() == "after"


def test_data_are_on_the_disk_before_their_name_is(tmp_path, monkeypatch):
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        "os.fsync", lambda handle: (done.append("folder" if is_folder(handle) else "file"), sync(handle))
    )
    monkeypatch.setattr("os.replace", lambda *names: (done.append("name"), replace(*names)))
    write_text(tmp_path / "file", "whole")
    assert done == ["file", "name", "folder"]


def is_folder(handle: int) -> bool:
    return stat.S_ISDIR(os.fstat(handle).st_mode)


def test_what_a_killed_process_left_in_the_scratch_place_goes(tmp_path, monkeypatch):
    """A patient's scan may be in it; what a living process has stays."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(output, "_NEW", -1.0)
    for name in ("modiff-scratch-left", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
    with scratch() as first, scratch() as second:
        (second / "file").touch()
        assert {path.name for path in tmp_path.iterdir()} == {"other", first.name, second.name}
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    with alone(tmp_path / "new"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["n" * 300, "n" * 250])
def test_a_long_name_is_written_or_refused_in_one_line(tmp_path, name):
    if len(name) > 255:
        with pytest.raises(DataError, match="File name too long"):
            write_text(tmp_path / name, "a")
    else:
        assert write_text(tmp_path / name, "a").read_text() == "a"
    assert len(list(tmp_path.iterdir())) == (len(name) <= 255)
