"""Reports and the retained state, on a link in memory and a fake clock."""

import msgspec
import pytest

from edgeml_agent.fetch.window import Progress
from edgeml_agent.ports import Probed
from edgeml_agent.store.database import ModelRecord
from edgeml_agent.update.reporter import MESSAGE_MAX_CHARS, PROGRESS_EVERY_S
from edgeml_core.drift import Drift
from edgeml_core.errors import RejectedError
from edgeml_core.lifecycle import State
from edgeml_core.messages import Compared
from support.fakes import TUNED, Bench

NAME = "mood"
RECORD = ModelRecord(name=NAME, state=State.FETCHING, deployment="d1", version="1.0")


@pytest.fixture
def bench(tmp_path):
    """A device on memory ports, before its first report."""
    return Bench(tmp_path)


def progress(done, total=100, wire=0):
    """A fetch's progress."""
    return Progress(done_bytes=done, total_bytes=total, wire_bytes=wire)


def test_progress_is_reported_at_most_every_few_seconds(bench):
    """And its end at once."""
    for done in (10, 20, 30):
        bench.reporter.progress(RECORD, progress(done))
    assert [report.done_bytes for report in bench.link.reports] == [10]
    bench.clock.seconds += PROGRESS_EVERY_S
    bench.reporter.progress(RECORD, progress(40))
    bench.reporter.progress(RECORD, progress(50))
    bench.reporter.progress(RECORD, progress(100))
    assert [report.done_bytes for report in bench.link.reports] == [10, 40, 100]


def test_progress_is_reported_after_the_clock_was_set_back(bench):
    """An operator must not take a fetch of hours for one that stands still."""
    bench.reporter.progress(RECORD, progress(10))
    bench.clock.seconds -= 7200
    for done in (20, 30):
        bench.reporter.progress(RECORD, progress(done))
    assert [report.done_bytes for report in bench.link.reports] == [10, 20]


def test_reports_of_an_update_repeat_its_progress(bench):
    """Until the next update of the model begins; other models have their own."""
    bench.reporter.progress(RECORD, progress(100, wire=60))
    bench.reporter.state_changed(msgspec.structs.replace(RECORD, state=State.VERIFYING))
    assert bench.link.reports[-1].wire_bytes == 60
    bench.reporter.state_changed(msgspec.structs.replace(RECORD, name="other"))
    assert bench.link.reports[-1].wire_bytes == 0
    bench.reporter.state_changed(msgspec.structs.replace(RECORD, state=State.RESOLVING))
    bench.reporter.state_changed(msgspec.structs.replace(RECORD, state=State.FETCHING))
    assert bench.link.reports[-1].wire_bytes == 0


def test_a_state_without_a_deployment_is_no_report(bench):
    """As after an abandoned update: the retained state suffices."""
    bench.reporter.state_changed(msgspec.structs.replace(RECORD, deployment="", state=State.IDLE))
    assert bench.link.reports == []
    assert len(bench.link.shown) == 1


def test_results_of_steps_are_in_the_reports(bench):
    """Of the probe, the comparison and the tuning."""
    found = Probed(min_cosine=1.0, max_abs=0.0, first_ms=9.0, median_ms=1.2345, peak_rss_bytes=1)
    compared = Compared(against="0.9", compared=7, differed=0, failed=0)
    bench.reporter.activated(RECORD, found)
    bench.reporter.compared(RECORD, compared)
    bench.reporter.compared(RECORD, None)
    bench.reporter.tuned(RECORD, TUNED)
    assert [(it.probe_ms, it.compared, it.tuned) for it in bench.link.reports] == [
        (1.23, None, None),
        (0.0, compared, None),
        (0.0, None, TUNED),
    ]


def test_a_refusal_is_reported_once_until_trust_is_restored(bench):
    """Another message is another refusal; the state has it as long as it lasts."""
    first, second = RejectedError("trust-expired", "expired"), RejectedError("trust-expired", "expired again")
    for error in (first, first, second, second):
        bench.reporter.refused(error)
    assert [report.message for report in bench.link.reports] == ["expired", "expired again"]
    assert bench.link.shown[-1].code == "trust-expired"
    bench.reporter.trust_restored()
    assert (bench.link.shown[-1].code, bench.link.shown[-1].message) == ("", "")
    count = len(bench.link.shown)
    bench.reporter.trust_restored()
    assert len(bench.link.shown) == count, "nothing changed"
    bench.reporter.refused(second)
    assert len(bench.link.reports) == 3


def test_long_messages_are_cut(bench):
    """In reports and in the state: the log has the rest."""
    bench.reporter.refused(RejectedError("document-format", "x" * 2 * MESSAGE_MAX_CHARS))
    assert len(bench.link.reports[-1].message) == len(bench.link.shown[-1].message) == MESSAGE_MAX_CHARS


@pytest.mark.parametrize(
    ("before", "after", "is_published"),
    [
        (Drift(grade="ok", observed=60), Drift(grade="ok", observed=900), False),
        (Drift(grade="ok", observed=60), Drift(grade="major", observed=60, psi={"score": 0.4}), True),
        (
            Drift(grade="major", observed=60, psi={"score": 0.4}),
            Drift(grade="major", observed=99, psi={"score": 0.6}),
            False,
        ),
        (
            Drift(grade="major", observed=60, psi={"score": 0.4}),
            Drift(grade="major", observed=60, psi={"score": 0.4, "label": 0.3}),
            True,
        ),
    ],
)
def test_drift_is_published_when_a_grade_or_a_quantity_changes(bench, before, after, is_published):
    """Its figures alone are no reason to rewrite the retained state."""
    bench.drifts[NAME, "1.0"] = before
    bench.reporter.publish_state()
    bench.drifts[NAME, "1.0"] = after
    bench.reporter.drift()
    assert len(bench.link.shown) == 1 + is_published
