"""Anything at all in data files: an answer, in which every row is counted, or one line."""

import json

from hypothesis import given

from tasks.korquad_files import Schema, read_contexts
from tasks.nsmc import read_ratings
from tests.conftest import DEMO
from tests.fuzz.inputs import changed, damaged, one_line_at_most, share, written

RATINGS = b"".join((DEMO / "ratings_test.txt").read_bytes().splitlines(keepends=True)[:8])
QUESTION = {"id": "q", "question": "수도는?", "answers": [{"text": "서울", "answer_start": 0}]}
KORQUAD = {"data": [{"title": "가", "paragraphs": [{"context": "서울은 수도이다.", "qas": [QUESTION]}]}]}


@share("reviews")
@given(damaged(RATINGS))
def test_bytes_of_reviews(content):
    with one_line_at_most():
        frame, dropped = read_ratings(written(content))
        rows = [line for line in content.replace(b"\r", b"\n").split(b"\n")[1:] if line.strip()]
        assert len(frame) + dropped <= len(rows)
        assert b"\r" in content or len(frame) + dropped == len(rows), "a row vanished"


@share("questions")
@given(changed(KORQUAD) | damaged(json.dumps(KORQUAD).encode()))
def test_question_files(content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with one_line_at_most():
        list(read_contexts([written(data)], Schema.V1))
