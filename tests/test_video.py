"""Videos are read as they are or refused in one sentence; what is written plays and is whole or absent."""

import tracemalloc

import av
import cv2
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax.errors import UserError
from mqc_jax.pictures import natural, read_image
from mqc_jax.video import VideoWriter, open_video


def noise(frames: int, size=(48, 64)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for _ in range(frames)]


def encode(path, frames, codec, options=None):
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def read_all(path) -> list[np.ndarray]:
    return list(open_video(path))


@pytest.fixture
def folder(tmp_path):
    for t, frame in enumerate(noise(4)):
        cv2.imwrite(str(tmp_path / f"frame{t + 8}.png"), frame[..., ::-1])
    return tmp_path


def test_what_is_written_comes_back_in_colour_and_number(tmp_path):
    colours = np.array([[230, 159, 0], [86, 180, 233], [0, 158, 115], [10, 10, 10], [250, 250, 250]], np.uint8)
    picture = colours.repeat(16, 0)[None].repeat(48, 0)
    with VideoWriter(tmp_path / "a.mp4", 29.97) as writer:
        for _ in range(7):
            writer.write(picture)
    reader = open_video(tmp_path / "a.mp4")
    frames = list(reader)
    assert len(frames) == reader.frame_count == 7
    assert reader.fps == pytest.approx(29.97)
    assert reader.size == (48, 80)
    assert np.abs(frames[3][24, 8::16].astype(int) - colours).max() <= 6
    assert len(list(reader)) == 7, "iterating again starts again"


@settings(max_examples=8, deadline=None)
@given(st.integers(16, 50), st.integers(16, 50), st.sampled_from([0.5, 1, 23.976, 60]))
def test_any_size_and_rate_is_written_with_even_sides(tmp_path_factory, height, width, fps):
    path = tmp_path_factory.mktemp("sizes") / "a.mp4"
    with VideoWriter(path, fps) as writer:
        for frame in noise(3, (height, width)):
            writer.write(frame)
    reader = open_video(path)
    assert reader.size == (height + height % 2, width + width % 2)
    assert reader.fps == pytest.approx(fps, rel=1e-3)
    assert len(list(reader)) == 3


def test_the_mp4_is_what_browsers_play(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        for frame in noise(5):
            writer.write(frame)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat"), "the index must come first"
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def write():
        with VideoWriter(tmp_path / "a.mp4", 10) as writer:
            writer.write(noise(1)[0])
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("a.avi", "mpeg4", {}),
        ("a.webm", "libvpx", {}),
        ("a.mkv", "libx264", {}),
    ],
    ids=["mp4", "mp4-faststart", "avi", "webm", "mkv"],
)
def test_containers_are_read_and_cut_files_are_refused(tmp_path, name, codec, options):
    path = tmp_path / name
    encode(path, noise(60), codec, options)
    assert len(read_all(path)) == 60
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut off|cannot be decoded|not a video"):
        read_all(path)


def test_damaged_pictures_inside_a_video_are_told(tmp_path):
    path = tmp_path / "a.mp4"
    encode(path, noise(30), "libx264")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes((7 * b + 13) % 256 for b in data[middle : middle + 3000])
    path.write_bytes(data)
    reader = open_video(path)
    try:
        frames = list(reader)
    except UserError as error:
        assert "cannot be decoded" in str(error)  # noqa: PT017 - either outcome is honest, silence is not
    else:
        assert len(frames) == 30
        assert "damaged" in " ".join(reader.notes)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, 3), (180, 2), (0, 0)])
def test_a_rotation_tag_is_obeyed(tmp_path, degrees, turns):
    path = tmp_path / "a.h264"
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :16], picture[:8] = 255, 128
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        # The tag counts anticlockwise, as H.264's display orientation message does.
        tag = BitStreamFilterContext(f"h264_metadata=rotate={degrees}:display_orientation=insert", stream)
        frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for _ in range(2)]
        for packet in [p for frame in [*frames, None] for p in stream.encode(frame)]:
            for tagged in tag.filter(packet):
                tagged.stream = stream
                container.mux(tagged)
    frame = next(iter(open_video(path)))  # the tag lies on key frames alone here
    expected = np.rot90(picture, turns)
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 8


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: p / "clip.mp5", r"there is no video at .*did you mean 'clip.mp4'"),
        (lambda p: p / "notes.txt", "not a video that can be read"),
        (lambda p: p / "empty.mp4", "not a video that can be read"),
        (lambda p: p / "sound.wav", "holds no video stream, only audio"),
        (lambda p: p / "nothing", "holds no frame"),
        (lambda p: p / "outer", r"did you mean .*outer/inner"),
        (lambda p: p / "*.bmp", "matches the pattern"),
        (lambda p: p / "mixed", r"2 kinds \(jpg, png\)"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, make, sentence):
    (tmp_path / "clip.mp4").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("hello\n" * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "nothing").mkdir()
    for place in ("outer/inner/a.png", "mixed/a.png", "mixed/a.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / place), noise(1)[0])
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(UserError, match=sentence):
        read_all(make(tmp_path))


def test_a_folder_is_read_in_natural_order(folder):
    reader = open_video(folder)
    assert reader.names == ("frame8.png", "frame9.png", "frame10.png", "frame11.png")
    assert all(np.array_equal(a, b) for a, b in zip(reader, noise(4), strict=True))


def test_patterns_choose_among_files(folder):
    cv2.imwrite(str(folder / "mask8.png"), noise(1)[0])
    assert open_video(folder / "frame*.png").frame_count == 4
    assert open_video(folder / "frame%d.png").names[-1] == "frame11.png"
    assert open_video(folder / "frame9.png").frame_count == 1


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True))
def test_natural_order_is_the_numbers_order(numbers):
    names = [f"a{n}_x.png" for n in numbers]
    assert sorted(names, key=natural) == [f"a{n}_x.png" for n in sorted(numbers)]


def test_frames_of_differing_sizes_are_named(folder):
    cv2.imwrite(str(folder / "frame12.png"), np.zeros((30, 31, 3), np.uint8))
    with pytest.raises(UserError, match=r"frame8.png is 64x48 but frame12.png is 31x30"):
        read_all(folder)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_cut_picture_is_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), noise(1)[0])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"a\.{suffix} is cut off"):
        open_video(path)


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_what_is_no_picture_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png cannot be decoded"):
        open_video(tmp_path)


def test_16_bits_are_stretched_alike_in_every_frame(tmp_path):
    rng = np.random.default_rng(1)
    first = rng.integers(1000, 3000, (40, 50), dtype=np.uint16)
    for name, picture in (("0.tif", first), ("1.tif", first + 500)):
        cv2.imwrite(str(tmp_path / name), picture)
    reader = open_video(tmp_path)
    frames = list(reader)
    low, high = np.percentile(first, (0.5, 99.5))
    expected = np.clip((first + 500.0 - low) / (high - low), 0, 1) * 255
    assert np.abs(frames[1][..., 0] - expected).max() <= 0.51
    assert frames[0].shape == (40, 50, 3)
    assert len(reader.notes) == 1
    assert f"{low:g} to {high:g}" in reader.notes[0]


def test_constant_and_unfinite_pixels_stay_numbers(tmp_path):
    picture = np.full((20, 20), 5.0, np.float32)
    picture[3, 3] = np.nan
    cv2.imwrite(str(tmp_path / "a.tif"), picture)
    assert read_all(tmp_path)[0].max() == 0


@pytest.mark.parametrize(("pixels", "channels"), [("gray16le", 1), ("gray12le", 1), ("gbrp12le", 3), ("gbrp16le", 3)])
def test_a_video_of_deep_pixels_is_stretched_as_pictures_are(tmp_path, pixels, channels):
    # 12 bits in use of 16, as thermal cameras record them: their top 8 bits alone would be nearly black.
    rng = np.random.default_rng(7)
    pictures = [rng.integers(500 + 99 * t, 2500 + 99 * t, (32, 48, channels), dtype=np.uint16) for t in range(3)]
    planes = "gray16le" if channels == 1 else "rgb48le"
    scale = 16 if "12" in pixels else 1  # FFmpeg's conversion moves 12 bits to the top of 16, and back
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
        for picture in pictures:
            array = np.ascontiguousarray(picture.squeeze() * np.uint16(scale))
            frame = av.VideoFrame.from_ndarray(array, format=planes)
            container.mux(stream.encode(frame.reformat(format=pixels, threads=1)))
        container.mux(stream.encode(None))
    reader = open_video(tmp_path / "a.mkv")
    low, high = np.percentile(pictures[0], (0.5, 99.5))
    for frame, picture in zip(reader, pictures, strict=True):
        assert frame.shape == (32, 48, 3)
        assert np.abs(frame - np.clip((picture - low) / (high - low), 0, 1) * 255).max() < 1
    assert "Frames are uint16" in reader.notes[0]


def test_ten_bit_colour_is_shown_as_eight(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv422p10le"
        picture = av.VideoFrame.from_ndarray(np.full((32, 48, 3), (200, 30, 90), np.uint8), format="rgb24")
        container.mux(stream.encode(picture.reformat(format="yuv422p10le", threads=1)))
        container.mux(stream.encode(None))
    (frame,) = read_all(tmp_path / "a.mkv")
    assert np.abs(frame.astype(int) - (200, 30, 90)).max() <= 3


@pytest.mark.parametrize(("channels", "noted"), [(1, False), (3, False), (4, True)])
def test_channels(tmp_path, channels, noted):
    picture = np.random.default_rng(2).integers(0, 255, (20, 24, channels), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    reader = open_video(tmp_path)
    frame = next(iter(reader))
    expected = picture[..., [0, 0, 0]] if channels == 1 else picture[..., [2, 1, 0]]
    assert np.array_equal(frame, expected)
    assert bool(reader.notes) == noted


def test_pages_are_refused(tmp_path):
    cv2.imwritemulti(str(tmp_path / "a.tif"), noise(3))
    with pytest.raises(UserError, match="holds 3 pages"):
        read_image(tmp_path / "a.tif")


def test_memory_does_not_grow_with_the_video(folder):
    for t in range(12, 72):
        cv2.imwrite(str(folder / f"frame{t}.png"), noise(1)[0])
    frames = iter(open_video(folder))
    next(frames)
    tracemalloc.start()
    for _ in frames:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 48 * 64 * 3, "a few frames at once, not all"
