"""Samples go through blocks of a Ray Dataset as they are, in every attribute that they have."""

import dataclasses

from harness.cluster.blocks import samples_from, table_from
from harness.core.task import Sample

FULL = Sample(
    id="7",
    fields={"question": "무엇?", "passage": "글"},
    gold=2,
    answers=("가", "나"),
    choices=("하나", "둘", "셋"),
    source="기사",
    cluster="문단",
)


def test_the_full_sample_leaves_no_attribute_at_its_default():
    for attribute in dataclasses.fields(Sample):
        assert getattr(FULL, attribute.name) != attribute.default, attribute.name


def test_every_attribute_comes_back():
    samples = [FULL, Sample("8", dict.fromkeys(FULL.fields, "")), dataclasses.replace(FULL, id="9", choices=("하나",))]
    assert samples_from(table_from(samples)) == samples


def test_attributes_given_by_place_are_those_of_before():
    assert Sample("1", {}, 0, ("가",), "기사", "문단") == Sample("1", {}, 0, ("가",), source="기사", cluster="문단")
