"""Packed things on the scratch disk, by this process and by others."""

import dataclasses

import numpy as np
import pytest

from support.frames import frame, line
from twintape.columns.parse import HEADER, scan
from twintape.columns.templates import TemplateSet
from twintape.core import segment, wire
from twintape.core.errors import CorruptionError, NotFoundError
from twintape.core.manifest import ClockStatistics
from twintape.core.markets import Market
from twintape.io import scratch
from twintape.io.disk import PosixDisk
from twintape.io.scratch import Pack, Place, Reader, SurveyTask, survey_object

RUN = "0123456789abcdef0123456789abcdef"


def sealed(*frames, market=Market.SPOT):
    chain = segment.ChainLink(id=RUN[:16], number=0, previous=None, reason="new spool")
    lines = [(1723161255030314667 + k, text) for k, text in enumerate(frames)]
    return segment.seal(lines, collector="tokyo", market=market, run=RUN, connection=3, sequence=1, chain=chain).data


@pytest.fixture
def disk(tmp_path):
    return PosixDisk(tmp_path)


def test_what_is_packed_is_found_by_disk_and_by_directory(disk, tmp_path):
    pack = Pack(disk, "0/objects")
    places = [pack.add(data) for data in (b"one", b"", b"three")]
    assert places == [Place("0/objects", 0, 3), Place("0/objects", 3, 0), Place("0/objects", 3, 5)]
    for where in (disk, str(tmp_path)):
        reader = Reader(where)
        assert [reader.read(place.path, place.offset, place.size) for place in places] == [b"one", b"", b"three"]
        assert reader.read("0/objects") == b"onethree"
        assert reader.read("0/objects", 3) == b"three"


def test_what_is_mapped_can_be_changed_and_the_file_is_not(disk, tmp_path):
    pack = Pack(disk, "0/headers")
    data = bytes(range(251)) * 100
    pack.add(data)
    for where in (disk, str(tmp_path)):
        reader = Reader(where)
        for offset, size in ((0, len(data)), (17, 5), (9000, 8000), (len(data), 0)):
            found = reader.map("0/headers", offset, size)
            assert found == data[offset : offset + size]
            found[:1] = b"X"[:size]
            assert reader.map("0/headers", offset, size) == data[offset : offset + size]
        with pytest.raises(FileNotFoundError):
            reader.map("0/levels", 0, 8)


def test_objects_of_a_directory_are_read_where_they_are_until_they_are_gone(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "FILES_OPEN_MAX", 2)
    paths = [tmp_path / f"store-{number}" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(b"object %d" % number)
    for where in (disk, str(tmp_path / "scratch")):
        reader = Reader(where)
        assert [reader.read(str(path), 7, 1) for path in paths * 2] == [b"0", b"1", b"2"] * 2
        with pytest.raises(NotFoundError):
            reader.read(str(tmp_path / "pruned"))
    with pytest.raises(FileNotFoundError):
        Reader(str(tmp_path / "scratch")).read("0/objects")


def test_a_pack_is_forgotten_as_a_whole_and_can_be_filled_again(disk):
    pack = Pack(disk, "0/objects")
    pack.remove()
    pack.add(b"one")
    pack.remove()
    assert disk.list() == []
    assert pack.add(b"two") == Place("0/objects", 0, 3)


def test_a_survey_returns_index_headers_and_templates(disk, tmp_path):
    texts = [frame(final=12 + k) for k in range(3)]
    data = sealed(b"{}", *texts)
    pack = Pack(disk, "objects")
    pack.add(b"something before")
    place = pack.add(data)
    index = segment.verify_segment(data)
    found = survey_object(SurveyTask(str(tmp_path), place, index, "01234567-3", share=101))
    again = survey_object(SurveyTask(disk, place, index, "01234567-3", share=101, data=data))
    assert again == dataclasses.replace(found, levels=b"", before=len(found.levels) // 8)
    assert len(found.rows) == 3 * HEADER.itemsize
    assert np.frombuffer(found.rows, HEADER)["place"].tolist() == [0, 3, 6]
    assert (found.before, len(found.levels)) == (0, 3 * 3 * 8)
    expected = TemplateSet()
    scan(b"".join(map(line, texts)), Market.SPOT, expected)
    assert found.templates == {"btcusdt@depth": tuple(expected)}


def test_each_share_is_remembered_by_itself_and_only_some_of_them(disk, monkeypatch):
    monkeypatch.setattr(scratch, "MEMORIES_MAX", 2)
    monkeypatch.setattr(scratch, "_memories", {})
    data = sealed(frame())
    place, index = Pack(disk, "objects").add(data), segment.verify_segment(data)

    def kept(share):
        found = survey_object(SurveyTask(disk, place, index, "01234567-3", share))
        return found.kept, len(found.levels) > 0

    one, two = kept(1), kept(2)
    assert one[0] != two[0]
    assert (one[1], two[1]) == (True, True)
    assert kept(1) == (one[0], False)
    three = kept(3)
    assert kept(1) == (one[0], False)
    assert kept(3) == (three[0], False)
    again = kept(2)
    assert again[0] not in {one[0], two[0], three[0]}
    assert again[1]


def test_a_damaged_object_is_refused(disk):
    whole = sealed(frame())
    index = segment.verify_segment(whole)
    data = bytearray(whole)
    data[9] ^= 1
    place = Pack(disk, "objects").add(bytes(data))
    with pytest.raises(CorruptionError):
        survey_object(SurveyTask(disk, place, index, "01234567-3"))


def test_what_a_segments_control_lines_say_is_kept(disk):
    opening = wire.open_line(
        collector="tokyo", market="spot", run=RUN, connection=3, sequence=1, url="wss://x", streams=[], version="0", event_time_us=None
    )  # fmt: skip
    clock = wire.clock_line(wall_ns=1, monotonic_ns=1, offset_ns=-5, error_ns=7, source="chrony")
    damaged = b'{"stream":"!twintape@clock",'
    data = sealed(opening, frame(), clock, damaged)
    found = survey_object(SurveyTask(disk, Pack(disk, "objects").add(data), index := segment.verify_segment(data), "01234567-3"))
    said = ClockStatistics(samples=1, offset_ns_min=-5, offset_ns_max=-5, error_ns_max=7, unsynchronised=0)
    assert found.clocks == {index.date: said}
    assert [note.text for note in found.notes] == ["connection 3 opened"]


def test_only_so_many_streams_are_remembered(disk, monkeypatch):
    monkeypatch.setattr(scratch, "STREAMS_KNOWN_MAX", 1)
    monkeypatch.setattr(scratch, "_known", {})
    pack = Pack(disk, "objects")
    for data in (sealed(frame(symbol=symbol)) for symbol in ("AUSDT", "BUSDT", "CUSDT")):
        survey_object(SurveyTask(disk, pack.add(data), segment.verify_segment(data), "01234567-3"))
    assert set(scratch._known[Market.SPOT]) == {"cusdt@depth"}
