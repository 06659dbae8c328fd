"""What samples carry beside texts reaches replicas on Ray: records are those of an inline run."""

from harness import load_records, run
from harness.config.loading import config_from
from tests.test_choices import questions, sections

__all__ = ["questions"]


def test_choices_reach_replicas(shared_ray, questions):
    small = {"grid": {"templates": ["letters"], "k": [0, 2], "seeds": [1]}, "scoring": {}}
    inline, ray = (
        load_records(run(config_from(sections(questions, name=name, cluster=cluster, **small))).run_dir)
        for name, cluster in (
            ("inline", {"address": "inline", "shard_size": 4}),
            ("ray", {"address": "local", "shard_size": 4, "replicas": 2}),
        )
    )
    assert inline["error"].isna().all()
    assert ray["label_logprobs"].map(len).nunique() > 1, "the questions have choices of their own"
    assert ray.equals(inline)
