"""The actions of an episode over time, and where two part: hand-sized numbers."""

from __future__ import annotations

import numpy as np

from foveate.viz.viewer.actions import course, part


def chunk(*values):
    return np.array(values, np.float32)[:, None]


def test_a_chunk_counts_until_the_next_inference_and_the_last_until_the_end():
    found = course([(0, chunk(0, 1, 2, 3)), (2, chunk(10, 11, 12)), (7, chunk(20, 21, 22))], end=9)
    assert found.steps.tolist() == [0, 1, 2, 3, 4, 7, 8]  # the second chunk was used up before the third came
    assert found.actions[:, 0].tolist() == [0, 1, 10, 11, 12, 20, 21]
    assert course([(0, chunk(0, 1))]).steps.tolist() == [0, 1]
    assert course([(5, chunk(0, 1))], end=3).steps.tolist() == []


def test_no_chunk_is_no_course():
    assert course([]).steps.tolist() == []
    assert part(course([]), course([(0, chunk(1))]), 0.1).step is None


def test_episodes_part_where_a_number_differs_by_a_share_of_its_range():
    a = course([(0, np.array([[0, 0], [1, 100], [2, 200], [3, 300], [4, 400]], np.float32))])
    b = course([(1, np.array([[1, 100], [2, 210], [3, 380], [2, 400]], np.float32))])
    found = part(a, b, 0.1)  # ranges: 4 and 400
    assert found.steps.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(found.difference, [0, 10 / 400, 80 / 400, 2 / 4])
    assert (found.step, found.number) == (3, 1)
    assert (part(a, b, 0.3).step, part(a, b, 0.3).number) == (4, 0)
    assert part(a, b, 0.6).step is None


def test_what_does_not_compare_does_not_part():
    a, b = course([(0, np.zeros((3, 2), np.float32))]), course([(0, np.zeros((3, 4), np.float32))])
    assert part(a, b, 0.1).step is None and part(a, b, 0.1).steps.tolist() == []
    assert part(a, course([(3, np.zeros((3, 2), np.float32))]), 0.1).steps.tolist() == []
    same = part(a, a, 0.0)  # an action that never moves has no range to divide by
    assert same.step is None and same.difference.tolist() == [0, 0, 0]
