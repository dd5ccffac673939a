import msgspec
import pytest

from support.compare import chunk, chunks_of, frame
from twintape.columns.report import FORMAT, GRAVE, LineInfo, Report, compare_stream, headline, make_report, meaning
from twintape.core.markets import Market


def windows(count, quantity=1, start=0):
    return [frame(n, n + 1, [(1, quantity)]) for n in range(start, start + count)]


def report_of(*streams):
    infos = [LineInfo("tokyo", "ws://a"), LineInfo("paris", "ws://b"), LineInfo("oslo", "ws://c")]
    made = [
        compare_stream(
            symbol, "depth", [(info.name, [chunk(frames)]) for info, frames in zip(infos, own, strict=True)], Market.SPOT
        )
        for symbol, own in streams
    ]
    return make_report("1.0", "recorded", Market.SPOT, infos, made)


def test_every_pair_is_summed_up_over_the_streams_it_met_in():
    whole, wrong = windows(10), [*windows(9), frame(9, 10, [(1, 7)])]
    report = report_of(("AUSDT", (whole, whole, whole[:5])), ("BUSDT", (whole, wrong, whole)), ("CUSDT", (whole, [], whole[2:])))
    by_pair = {(total.a, total.b): total for total in report.totals}
    one = by_pair["tokyo", "paris"]
    assert (one.findings, one.streams, one.windows, one.differing) == (["conflict"], 2, 20, ["BUSDT depth"])
    assert (one.levels["bytes"].count, one.levels["bytes"].of, one.conflicts) == (1, 20, 1)
    assert by_pair["tokyo", "oslo"].findings == []
    assert by_pair["tokyo", "oslo"].windows == 23
    assert [len(stream.pairs) for stream in report.streams] == [3, 3, 3]
    assert report.from_us < report.to_us
    assert report.format == FORMAT


def test_where_only_all_quantities_ever_mentioned_can_tell_they_are_gone_through_again():
    # The third line leaves a level out that it has mentioned long before: its book is right, and known to be.
    whole = [frame(n, n + 1, [(1, 2)] if n in (0, 90) else [(5, n)]) for n in range(100)]
    less = [frame(n, n + 1, [(1, 2)] if n == 0 else [] if n == 90 else [(5, n)]) for n in range(100)]
    named = [(name, chunks_of(frames, size=10)) for name, frames in (("a", whole), ("b", whole), ("c", less))]
    for windows in (10, 1000):
        pairs = compare_stream("AUSDT", "depth", named, Market.SPOT, windows=windows).pairs
        assert [pair.findings for pair in pairs] == [[], ["omitted"], ["omitted"]]
        assert [(pair.undecided, pair.conflicts) for pair in pairs] == [(0, 0)] * 3


def test_pairs_that_never_met_have_nothing_to_compare():
    report = report_of(("AUSDT", ([], [], [])))
    assert [total.findings for total in report.totals] == [["nothing"]] * 3
    assert (report.from_us, report.to_us) == (None, None)


def test_a_report_survives_json():
    report = report_of(("AUSDT", (windows(10), windows(8), windows(10, start=1))))
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


@pytest.mark.parametrize("finding", ["nothing", "conflict", "omitted", "shifted", "recut", "printed", "restamped", "missing"])
def test_every_finding_has_words(finding):
    assert headline([finding, "missing"]) == meaning(finding)
    assert meaning(finding).partition(":")[0].isupper()


def test_no_finding_means_identical():
    assert headline([]).startswith("IDENTICAL")
    assert set(GRAVE) == {"conflict", "omitted"}
