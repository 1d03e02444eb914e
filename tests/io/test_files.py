"""Results exist whole or not at all, and nobody's files are lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modiff.errors import DataError
from modiff.io.files import output_folder, replacing, sha256_of, write_text


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


def test_the_digest_is_of_the_files_bytes(tmp_path):
    path = write_text(tmp_path / "file.txt", "abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


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
