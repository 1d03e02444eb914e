"""LIDC's XML from anyone: read as meant, or refused in one typed line within bounds."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from lidc_folder import box, small_mark, square, uid, xml

from modiff.data.importers.lidc_dicom import outlines as module
from modiff.data.importers.lidc_dicom.outlines import merge, parse, series_uid_of
from modiff.errors import DataError

GOOD = xml(1, [[box(60, 70, 10, [1, 2])], [box(61, 70, 9, [2]), small_mark(4, 9, 9)], [], []])
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + ']><LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader><SeriesInstanceUid>&j;</SeriesInstanceUid>'
    "</ResponseHeader></LidcReadMessage>"
)


def read(text: str) -> list[module.Session]:
    return parse(text.encode(), "a.xml")


def refused(text: str | bytes) -> str:
    with pytest.raises(DataError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), "a.xml")
    assert str(caught.value).startswith("a.xml")
    return str(caught.value)


def test_sessions_outlines_and_points_are_read() -> None:
    found = read(GOOD)
    assert [len(session) for session in found] == [1, 1, 0, 0]
    first = found[0][0][0]
    assert first.sop_uid == uid(1, 1, 1)
    assert first.inclusion
    assert first.points.tolist() == [list(point) for point in square(60, 70, 10)]


def test_the_series_is_known_from_the_start_of_the_file() -> None:
    assert series_uid_of(GOOD.encode()) == uid(1, 1)
    assert series_uid_of(b"<a/>") == ""


def test_the_slices_that_are_named_are_those_of_outlined_nodules() -> None:
    named = {region.sop_uid for session in read(GOOD) for outline in session for region in outline}
    assert named == {uid(1, 1, 1), uid(1, 1, 2)}


def test_a_radiographs_message_has_no_sessions() -> None:
    text = (
        '<IdriReadMessage xmlns="http://www.nih.gov/idri"><CXRreadingSession><a/></CXRreadingSession></IdriReadMessage>'
    )
    assert read(text) == []


def test_readers_who_found_nothing_stay_as_many_as_they_are() -> None:
    both = merge([read(GOOD), read(GOOD)])
    assert [len(session) for session in both] == [1, 1, 0, 0]


def test_a_file_that_repeats_its_readers_counts_each_once() -> None:
    again = GOOD[GOOD.index("<readingSession>") : GOOD.index("</readingSession>")] + "</readingSession>"
    repeated = read(GOOD.replace("</LidcReadMessage>", again + "</LidcReadMessage>"))
    assert len(repeated) == 5
    assert len(merge([repeated])) == 4


def test_further_readers_of_another_file_are_added() -> None:
    other = xml(1, [[box(60, 70, 10, [1, 2])], [box(10, 10, 5, [3])]])
    assert len(merge([read(GOOD), read(other)])) == 5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<xCoord>60</xCoord>", "<xCoord>-1</xCoord>", "edgeMap"),
        ("<xCoord>60</xCoord>", "<xCoord>6.5</xCoord>", "edgeMap"),
        ("<xCoord>60</xCoord>", "<xCoord>99999</xCoord>", "edgeMap"),
        ("<xCoord>60</xCoord>", "<xCoord>" + "9" * 5000 + "</xCoord>", "edgeMap"),
        ("<xCoord>60</xCoord>", "<xCoord>٣</xCoord>", "edgeMap"),
        ("<xCoord>60</xCoord>", "", "edgeMap"),
        ("<inclusion>TRUE", "<inclusion>MAYBE", "inclusion"),
        ("<inclusion>TRUE</inclusion>", "", "inclusion"),
        ("<imageSOP_UID>1.2.826.0.1.1.1<", "<imageSOP_UID>../../etc<", "imageSOP_UID"),
        ("LidcReadMessage", "html", "root"),
        ("http://www.nih.gov", "http://example.org", "namespace"),
        ("</LidcReadMessage>", "", "well-formed"),
        ("UTF-8", "nonsense-8", "well-formed"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert said in refused(GOOD.replace(old, new))


def test_entities_are_refused_before_they_grow() -> None:
    tracemalloc.start()
    assert "DTD" in refused(BOMB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_file_of_this_machine_cannot_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1.2.3")
    text = GOOD.replace(
        "<LidcReadMessage", f'<!DOCTYPE x [<!ENTITY s SYSTEM "file://{tmp_path}/secret">]><LidcReadMessage', 1
    ).replace(uid(1, 1) + "<", "&s;<", 1)
    assert "DTD" in refused(text)


def test_lists_and_depth_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "too many elements" in refused(GOOD.replace("<nonNodule>", "<nonNodule>" + "<a>" * 20 + "</a>" * 20))
    many = GOOD.replace("</readingSession>", "</readingSession>" + "<readingSession/>" * 20, 1)
    assert "too many sessions" in refused(many)
    assert "too many nodules" in refused(xml(1, [[box(1, 1, 3, [1])] * 300]))
    monkeypatch.setattr(module, "MAX_ELEMENTS", 50)
    assert "too many elements" in refused(GOOD)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    assert "too large" in refused(GOOD)


def test_millions_of_points_take_no_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ELEMENTS", 20_000)
    edge = "<edgeMap><xCoord>1</xCoord><yCoord>1</yCoord></edgeMap>"
    text = GOOD.replace("<edgeMap>", edge * 100_000 + "<edgeMap>", 1)
    tracemalloc.start()
    assert "too many elements" in refused(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("piece", ["attributes", "text", "comment"])
def test_a_long_piece_without_an_element_is_not_parsed(piece: str) -> None:
    long = {"attributes": "<a " + "".join(f'a{i}=">" ' for i in range(100_000)) + "/>", "text": "x" * 1_000_000}
    text = long.get(piece, f"<!--{long['text']}-->")
    assert "too much text without an element" in refused(GOOD.replace("<nonNodule>", f"<nonNodule>{text}", 1))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_give_sessions_or_a_typed_error(seed: int) -> None:
    rng, data = np.random.default_rng(seed), GOOD.encode()
    for _ in range(200):
        made = bytearray(data)
        for at in rng.integers(0, len(made), rng.integers(1, 5)):
            made[at] = rng.integers(256)
        try:
            for session in parse(bytes(made), "a.xml"):
                assert all(region.points.shape[1] == 2 for outline in session for region in outline)
        except DataError:
            pass
