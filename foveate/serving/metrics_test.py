"""What replicas tell of themselves, on one page."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from foveate.serving.metrics import Metrics, merged


def test_pages_of_replicas_become_one_in_which_each_number_says_whose_it_is():
    first, second = Metrics("tiny"), Metrics("tiny")
    first.answered("ok", 3)
    second.answered("ok", 4)
    second.inferred([1.0, 2.0], 30.0, {"vision": 10.0})
    kind, page = merged({"a": first.page()[1], "b": second.page()[1]})
    assert kind == first.page()[0]
    families = {family.name: family for family in text_string_to_metric_families(page.decode())}
    assert families.keys() == {family.name for family in text_string_to_metric_families(second.page()[1].decode())}
    counted = {
        sample.labels["replica"]: sample.value
        for sample in families["foveate_queries"].samples
        if sample.name == "foveate_queries_total" and sample.labels["outcome"] == "ok"
    }
    assert counted == {"a": 3, "b": 4}
    batches = [s for s in families["foveate_batch_size"].samples if s.name == "foveate_batch_size_bucket"]
    assert {(s.labels["replica"], s.value) for s in batches if s.labels["le"] == "2.0"} == {("a", 0), ("b", 1)}
