"""Packed things on the scratch disk, by this process and by others."""

import pytest

from support.frames import frame, line
from twintape.columns.parse import HEADER, scan
from twintape.columns.templates import TemplateSet
from twintape.core import segment
from twintape.core.errors import CorruptionError
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
    found = survey_object(SurveyTask(str(tmp_path), pack.add(data), Market.SPOT, "01234567-3"))
    assert found.index == segment.verify_segment(data)
    assert len(found.rows) == 3 * HEADER.itemsize
    expected = TemplateSet()
    scan(b"".join(map(line, texts)), Market.SPOT, expected)
    assert found.templates == {"btcusdt@depth": tuple(expected)}


def test_a_damaged_object_is_refused(disk):
    data = bytearray(sealed(frame()))
    data[9] ^= 1
    place = Pack(disk, "objects").add(bytes(data))
    with pytest.raises(CorruptionError):
        survey_object(SurveyTask(disk, place, Market.SPOT, "01234567-3"))


def test_only_so_many_streams_are_remembered(disk, monkeypatch):
    monkeypatch.setattr(scratch, "STREAMS_KNOWN_MAX", 1)
    monkeypatch.setattr(scratch, "_known", {})
    pack = Pack(disk, "objects")
    places = [pack.add(sealed(frame(symbol=symbol))) for symbol in ("AUSDT", "BUSDT", "CUSDT")]
    for place in places:
        survey_object(SurveyTask(disk, place, Market.SPOT, "01234567-3"))
    assert set(scratch._known[Market.SPOT]) == {"cusdt@depth"}
