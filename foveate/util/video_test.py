import av
import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.util.video import VideoWriter, side_by_side, write_video


def frames(count, height=48, width=64):
    """A bright square that moves 2 px to the right per frame."""
    for i in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[16:32, 2 * i : 2 * i + 16] = (250, 20, 20)
        yield frame


@pytest.mark.parametrize("codecs", [("libx264", "mpeg4"), ("no_such_codec", "mpeg4")])
def test_frames_come_back(tmp_path, codecs):
    path = tmp_path / "v.mp4"
    with VideoWriter(path, fps=20, codecs=codecs) as video:
        for frame in frames(12):
            video.add(frame)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 20
        back = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    assert len(back) == 12 and back[0].shape == (48, 64, 3)
    assert back[11][24, 30, 0] > 150 and back[11][24, 10].max() < 90  # the square is where it belongs


def test_odd_sizes_lose_one_pixel(tmp_path):
    write_video(tmp_path / "v.mp4", frames(3, height=49, width=65), fps=10)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (48, 64)


def test_errors(tmp_path):
    with (
        pytest.raises(FoveateError, match="no_such_codec"),
        VideoWriter(tmp_path / "v.mp4", 5, ("no_such_codec",)) as v,
    ):
        v.add(np.zeros((8, 8, 3), np.uint8))
    with VideoWriter(tmp_path / "w.mp4", 5) as video:
        video.add(next(frames(1)))
        with pytest.raises(FoveateError, match="expected frames of 48x64"):
            video.add(np.zeros((8, 8, 3), np.uint8))


def test_side_by_side():
    a, b = np.full((4, 2, 3), 1, np.uint8), np.full((2, 3, 3), 2, np.uint8)
    joint = side_by_side({"a": a, "b": b})
    assert joint.shape == (4, 5, 3)
    assert joint[:, :, 0].tolist() == [[1, 1, 2, 2, 2]] * 2 + [[1, 1, 0, 0, 0]] * 2
