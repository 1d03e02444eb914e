"""Other people's names never steer a terminal, whoever prints them."""

from __future__ import annotations

import io
import sys

import pytest
from rich.table import Table

from modiff import cli
from modiff.errors import DataError, printable
from modiff.io import progress
from modiff.terminal import console, safe_output

STEERS = ["\x1b[31m", "\x07", "\x9b31m", "\r", "\x08", "\u202e", "\u2066", "\u2028", "\udcff", "\ufeff"]


@pytest.mark.parametrize("steers", STEERS)
def test_what_steers_becomes_an_escape(steers):
    name = f"a{steers}b"
    shown = printable(name)
    assert shown.isprintable()
    assert shown == ascii(name)[1:-1]
    assert str(DataError("odd", path=name, found=name)).isprintable()


def test_letters_of_all_writings_stay():
    name = "Ölund – 山田\u3000太郎 שלום é\u0301 😀 [b] $x$ %s"
    assert printable(name) == name
    assert printable("a\nb", keep="\n") == "a\nb"


@pytest.mark.parametrize("steers", STEERS)
def test_nothing_that_is_printed_steers(capsys, steers):
    with safe_output():
        print(f"{steers}[red]a[/red] :smile:")
        sys.stderr.write(steers)
        table = Table(steers, title=steers)
        table.add_row(f"[/x]{steers}")
        console().print(table, f"[/x]{steers} :smile:", style="red")
        console(stderr=True).print(steers)
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable()
    assert "[red]a[/red] :smile:" in out
    assert "[/x]" in out


def test_what_the_stream_cannot_hold_is_escaped():
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    with pytest.MonkeyPatch.context() as patch, safe_output():
        patch.setattr("sys.stdout.stream", stream)
        print("naïve – 山")
    stream.flush()
    assert stream.buffer.getvalue() == b"na\\xefve \\u2013 \\u5c71\n"


def test_a_bars_own_moves_pass_and_its_texts_do_not(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress_bar("[/x]\x1b]a", "b\x1b]", note=lambda: "[c]\x9b") as show:
        show(1, 2)
        print("\x1b[31mname", file=sys.stderr)
    text = shown.getvalue()
    assert "[/x]\\x1b]a" in text
    assert "[c]\\x9b" in text
    assert "\\x1b[31mname" in text
    assert "\x1b]" not in text
    assert "\x1b[" in text  # the bar's


@pytest.mark.parametrize("steers", STEERS)
@pytest.mark.parametrize(
    "words",
    [
        "info {}",
        "check {}",
        "report {}",
        "sample lidc {}",
        "evaluate {} --truth x",
        "compare {0} {0}",
        "{}",
        "info x --{}",
    ],
)
def test_no_verb_repeats_it(capsys, tmp_path, monkeypatch, words, steers):
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main([word.format(f"a{steers}b") for word in words.split(" ")])
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    assert status == 2
    assert "a" in said.err
    assert (said.out + said.err).replace("\n", "").isprintable()
