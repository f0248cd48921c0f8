"""The metrics page: Prometheus' text format, histograms that add up."""

from edgeml_agent.serve.metrics import CANCELLED, LAST_MAX, LATENCY_BUCKETS_S, Metric, RequestCounts, render


def test_a_sample_with_labels_has_one_line_below_its_help_and_type():
    """The text of one metric is exactly the format's."""
    metric = Metric("edgeml_queue_depth", "gauge", "Waiting.", (("", {"model": "m", "code": "ok"}, 3),))
    assert render(iter([metric])) == (
        "# HELP edgeml_queue_depth Waiting.\n"
        "# TYPE edgeml_queue_depth gauge\n"
        'edgeml_queue_depth{model="m",code="ok"} 3\n'
    )


def test_a_sample_without_labels_has_no_braces():
    """Braces without labels would be legal; none are written."""
    assert render(iter([Metric("a", "gauge", "A.", (("", {}, 1.5),))])).endswith("\na 1.5\n")


def test_label_values_are_escaped():
    """Backslash, quote and line end can't break out of a label."""
    page = render(iter([Metric("a", "gauge", "A.", (("", {"l": 'x\\y"z\n'}, 1),))]))
    assert page.endswith('a{l="x\\\\y\\"z\\n"} 1\n')
    assert page.count("\n") == 3


def test_a_histogram_is_cumulative_and_ends_at_its_count():
    """Each bucket counts all observations up to its bound, the bound included."""
    counts = RequestCounts()
    for duration_s in (0.0005, LATENCY_BUCKETS_S[1], 0.3, 99.0):
        counts.add("m", "ok", duration_s)
    samples = list(counts.latencies())
    buckets = {labels["le"]: value for ending, labels, value in samples if ending == "_bucket"}
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.25"], buckets["0.5"]) == (1, 2, 2, 3)
    assert buckets["+Inf"] == 4
    assert list(buckets.values()) == sorted(buckets.values())
    assert {ending: value for ending, _, value in samples[-2:]} == {"_sum": 0.0005 + 0.0025 + 0.3 + 99.0, "_count": 4}


def test_totals_are_kept_for_each_model_and_outcome():
    """Outcomes of one model don't run into another's."""
    counts = RequestCounts()
    for model, code in (("a", "ok"), ("a", "ok"), ("a", "overloaded"), ("b", "ok")):
        counts.add(model, code, 0.01)
    found = {(labels["model"], labels["code"]): value for _, labels, value in counts.totals()}
    assert found == {("a", "ok"): 2, ("a", "overloaded"): 1, ("b", "ok"): 1}


def test_the_last_requests_are_remembered_one_by_one():
    """So many and no more; those that were given up say nothing of the model."""
    counts = RequestCounts()
    counts.add("m", "input-invalid", 0.5)
    counts.add("m", CANCELLED, 9.0)
    assert counts.last("m") == ((0.5, False),)
    for number in range(LAST_MAX):
        counts.add("m", "ok", number / 1000)
    assert counts.last("m") == tuple((number / 1000, True) for number in range(LAST_MAX))
    assert counts.codes("m") == {"input-invalid": 1, CANCELLED: 1, "ok": LAST_MAX}
    assert (counts.last("other"), counts.codes("other")) == ((), {})
