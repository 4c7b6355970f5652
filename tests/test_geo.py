"""GeoTIFF frames: masks and polygons lie where the frames do, in whatever way those are placed; bands and nodata."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import rasterio
import rasterio.features
from affine import Affine
from colour_tracker import ColourTracker, clip
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from mqc_jax import geo
from mqc_jax.errors import UserError
from mqc_jax.predict import predict
from mqc_jax.video import open_video

UTM = "EPSG:32633"
PLACES = {
    "north up": Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000),
    "turned": Affine.translation(400_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(3, -2),
    "south up": Affine(10, 0, -70_000, 0, 10, 20),
}


def write_geotiff(path, picture, transform=PLACES["north up"], crs=UTM, marked=None, **options):
    """`picture` is [H, W, C]; `marked` are the bands' colour interpretations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, count = picture.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=count,
        dtype=picture.dtype,
        crs=crs,
        transform=transform,
        **options,
    ) as file:
        if marked:
            file.colorinterp = marked
        file.write(picture.transpose(2, 0, 1))
    return path


def run(source, output, texts=("the red box",), lag=0):
    predict(str(source), list(texts), str(output), lambda t: ColourTracker(t, lag), progress=False)
    return output


def tracks(output) -> dict:
    return json.loads((output / "tracks.geojson").read_text())


def notes(output) -> str:
    return " ".join(json.loads((output / "result.json").read_text())["notes"])


def rings(geometry) -> list[tuple[np.ndarray, bool]]:
    """(points [n, 2], whether it is a hole) of every ring."""
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return [(np.array(ring), hole > 0) for polygon in polygons for hole, ring in enumerate(polygon)]


def moments(geometry) -> tuple[float, np.ndarray]:
    """Area and centroid of the polygons themselves; holes, which run the other way, count negative."""
    area, weighted = 0.0, np.zeros(2)
    origin = rings(geometry)[0][0][0]
    for points, _ in rings(geometry):
        a, b = (points - origin)[:-1], (points - origin)[1:]
        cross = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
        area += cross.sum() / 2
        weighted += ((a + b) * cross[:, None]).sum(0) / 6
    return area, weighted / area + origin


@pytest.mark.parametrize("lag", [0, 3])
@pytest.mark.parametrize("name", PLACES)
def test_centroids_are_right_in_map_units_whatever_each_frame_s_transform(tmp_path, name, lag):
    # Every frame is placed elsewhere and has pixels of another size, as a moving platform's have.
    places = [Affine.translation(7 * t, -3 * t) @ PLACES[name] @ Affine.scale(1 + t / 10) for t in range(6)]
    for t, frame in enumerate(clip(6, hidden=(4,))):
        write_geotiff(tmp_path / "in" / f"{t}.tif", frame, places[t])
    out = run(tmp_path / "in", tmp_path / "out", ["the red box", "the green box"], lag)
    features = tracks(out)["features"]
    assert [(f["properties"]["frame"], f["properties"]["target"]) for f in features] == [
        (t, n) for t in range(6) for n in range(2)
    ]
    for feature in features:
        told = feature["properties"]
        t = told["frame"]
        assert (told["text"], told["name"]) == (["the red box", "the green box"][told["target"]], f"{t}.tif")
        if told["target"] == 0 and t == 4:
            assert feature["geometry"] is told["centroid"] is None
            assert told["area"] == 0
            continue
        # The red box fills columns 2 + t to 11 + t and rows 5 to 12, the green one 40 to 49 and 25 to 32.
        centre = (7 + t, 9) if told["target"] == 0 else (45, 29)
        expected = np.array(places[t] @ centre)
        pixel = np.sqrt(abs(places[t].determinant))
        area, centroid = moments(feature["geometry"])
        assert np.abs(centroid - expected).max() < 1e-3 * pixel
        assert np.abs(np.array(told["centroid"]) - expected).max() < 1e-6 * pixel
        assert told["area"] == pytest.approx(80 * pixel**2)
        assert area == pytest.approx(told["area"], rel=1e-4)
        with rasterio.open(out / "masks_geo" / f"{told['target']:02d}" / f"{t:05d}.tif") as file:
            assert file.crs == rasterio.CRS.from_string(UTM)
            assert file.transform.almost_equals(places[t])
            assert (file.count, file.dtypes[0], file.nodata) == (1, "uint8", None)
            assert file.compression.name == "deflate"
            png = cv2.imread(str(out / "masks" / f"{told['target']:02d}" / f"{t:05d}.png"), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(file.read(1), png)
    assert "EPSG:32633" in notes(out)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0.02, 0.98), name=st.sampled_from(sorted(PLACES)))
def test_polygons_are_the_mask_with_its_holes(seed, density, name):
    mask = np.random.default_rng(seed).random((9, 12)) < density
    transform = PLACES[name]
    geometry = geo.mask_geometry(mask, transform)
    if geometry is None:
        assert not mask.any()
        return
    drawn = rasterio.features.rasterize([geometry], mask.shape, transform=transform)
    assert np.array_equal(drawn > 0, mask)
    for points, is_hole in rings(geometry):
        assert (points[0] == points[-1]).all()
        a, b = (points - points[0])[:-1], (points - points[0])[1:]
        assert ((a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]).sum() < 0) == is_hole, "outer rings run anticlockwise"
    assert moments(geometry)[0] == pytest.approx(mask.sum() * abs(transform.determinant), rel=1e-3)


def test_the_coordinate_system_is_named_as_gdal_reads_it(tmp_path):
    own = rasterio.CRS.from_proj4("+proj=laea +lat_0=52.2 +lon_0=10.1 +datum=WGS84 +units=m")
    named = {UTM: "urn:ogc:def:crs:EPSG::32633", "EPSG:4326": "urn:ogc:def:crs:OGC:1.3:CRS84", own: None}
    for k, (crs, name) in enumerate(named.items()):
        write_geotiff(tmp_path / f"{k}" / "0.tif", clip(1)[0], Affine(1e-4, 0, 10, 0, -1e-4, 52), crs)
        collection = tracks(run(tmp_path / f"{k}", tmp_path / f"out{k}"))
        if name is None:  # what has no code is written out; on its way through the file it loses some optional parts
            with rasterio.open(tmp_path / f"{k}" / "0.tif") as file:
                name = file.crs.to_wkt()
            assert "Lambert_Azimuthal_Equal_Area" in name
        assert collection["crs"] == {"type": "name", "properties": {"name": name}}
        # Longitude comes first, whatever order the authority gives its axes in.
        assert collection["features"][0]["properties"]["centroid"] == pytest.approx([10.0007, 51.9991])
    write_geotiff(tmp_path / "none" / "0.tif", clip(1)[0], crs=None)
    assert tracks(run(tmp_path / "none", tmp_path / "out"))["crs"] is None


def test_rasterio_s_own_tool_reads_the_masks(tmp_path):
    write_geotiff(tmp_path / "in" / "0.tif", clip(1)[0], PLACES["turned"])
    run(tmp_path / "in", tmp_path / "out")
    mask = tmp_path / "out" / "masks_geo" / "00" / "00000.tif"
    program = "from rasterio.rio.main import main_group; main_group()"
    done = subprocess.run(
        [sys.executable, "-c", program, "info", str(mask)], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert (told["crs"], told["driver"], told["dtype"], told["nodata"]) == (UTM, "GTiff", "uint8", None)
    assert told["transform"][:6] == pytest.approx(PLACES["turned"][:6])


@pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="GDAL's tools are not here; apt-get install gdal-bin")
def test_gdal_s_own_tools_read_what_is_written(tmp_path):
    for t, frame in enumerate(clip(3)):
        write_geotiff(tmp_path / "in" / f"{t}.tif", frame, PLACES["turned"])
    out = run(tmp_path / "in", tmp_path / "out")
    info = subprocess.run(
        ["ogrinfo", "-so", "-al", str(out / "tracks.geojson")], capture_output=True, text=True, check=True
    )
    assert "Feature Count: 3" in info.stdout
    assert 'ID["EPSG",32633]' in info.stdout
    assert info.stderr == ""
    info = subprocess.run(
        ["gdalinfo", str(out / "masks_geo" / "00" / "00002.tif")], capture_output=True, text=True, check=True
    )
    assert 'ID["EPSG",32633]' in info.stdout
    assert "NoData" not in info.stdout


BGRN = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]


@pytest.mark.parametrize(("marked", "taken"), [(BGRN, [2, 1, 0]), (None, [0, 1, 2])])
def test_red_green_and_blue_are_the_bands_that_say_so_or_the_first_three(tmp_path, marked, taken):
    picture = np.random.default_rng(3).integers(300, 3000, (30, 40, 4), dtype=np.uint16)
    write_geotiff(tmp_path / "0.tif", picture, marked=marked, photometric="minisblack")
    reader = open_video(tmp_path)
    (frame,) = reader
    seen = picture[..., taken].astype(float)
    low, high = np.percentile(seen, (0.5, 99.5))
    assert np.abs(frame - np.clip((seen - low) / (high - low), 0, 1) * 255).max() <= 0.51
    told = " ".join(reader.notes)
    assert f"bands {taken[0] + 1}, {taken[1] + 1} and {taken[2] + 1} are taken as red, green and blue" in told
    assert "Frames are uint16" in told


@pytest.mark.parametrize(("kind", "nodata"), [(np.uint16, 65535), (np.int16, -9999), (np.float32, np.nan)])
def test_pixels_without_data_are_black_and_do_not_spoil_the_stretch(tmp_path, kind, nodata):
    picture = np.random.default_rng(4).integers(1000, 2000, (40, 50, 3)).astype(kind)
    valid = np.ones((40, 50), bool)
    valid[:, :20] = False  # far more than the percentile leaves aside
    holed = np.where(valid[..., None], picture, nodata).astype(kind)
    holed[5, 30, 1] = nodata  # one band alone lacks data there
    write_geotiff(tmp_path / "0.tif", holed, nodata=nodata)
    reader = open_video(tmp_path)
    (frame,) = reader
    known = valid[..., None].repeat(3, -1)
    known[5, 30, 1] = False
    low, high = np.percentile(picture[known], (0.5, 99.5))
    expected = np.where(known, np.clip((picture.astype(float) - low) / (high - low), 0, 1) * 255, 0)
    assert np.abs(frame - expected).max() <= 0.51
    assert "without data" in " ".join(reader.notes)
    assert f"Frames are {np.dtype(kind)}" in " ".join(reader.notes)


def test_8_bits_stay_as_they_are_and_nodata_is_black(tmp_path):
    picture = np.random.default_rng(5).integers(1, 256, (20, 30, 3), dtype=np.uint8)
    picture[:5] = 200
    write_geotiff(tmp_path / "0.tif", picture, nodata=200)
    (frame,) = open_video(tmp_path)
    assert np.array_equal(frame, np.where(picture == 200, 0, picture))


def test_one_band_and_a_palette(tmp_path):
    picture = np.random.default_rng(6).integers(0, 3, (20, 30, 1), dtype=np.uint8)
    write_geotiff(tmp_path / "grey" / "0.tif", picture)
    assert np.array_equal(next(iter(open_video(tmp_path / "grey"))), picture.repeat(3, -1))
    path = write_geotiff(tmp_path / "palette" / "0.tif", picture, photometric="palette")
    colours = {0: (10, 20, 30), 1: (250, 0, 7), 2: (1, 2, 3)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, colours)
    expected = np.array([colours[i] for i in range(3)], np.uint8)[picture[..., 0]]
    assert np.array_equal(next(iter(open_video(tmp_path / "palette"))), expected)


def test_overviews_are_not_taken_for_pages(tmp_path):
    path = write_geotiff(tmp_path / "0.tif", clip(1, (200, 300))[0])
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    assert np.array_equal(next(iter(open_video(path))), clip(1, (200, 300))[0])


def test_a_world_file_places_a_plain_tif(tmp_path):
    cv2.imwrite(str(tmp_path / "0.tif"), clip(1)[0][..., ::-1])
    # Its six numbers place the centre of the top-left pixel.
    (tmp_path / "0.tfw").write_text("2\n0\n0\n-2\n1001\n1999\n")
    out = run(tmp_path / "0.tif", tmp_path / "out")
    assert tracks(out)["features"][0]["properties"]["centroid"] == [1000 + 2 * 7, 2000 - 2 * 9]


def test_big_tiffs_are_known_as_georeferenced(tmp_path):
    assert geo.is_geotiff(write_geotiff(tmp_path / "0.tif", clip(1)[0], BIGTIFF="YES"))
    assert geo.is_geotiff(write_geotiff(tmp_path / "1.tif", clip(1)[0], ENDIANNESS="BIG"))
    cv2.imwrite(str(tmp_path / "2.tif"), clip(1)[0])
    assert not geo.is_geotiff(tmp_path / "2.tif")
    for k, content in enumerate((b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0+\0\x08\0\0" + b"\xff" * 8, b"no tiff")):
        (tmp_path / f"x{k}.tif").write_bytes(content)
        assert not geo.is_geotiff(tmp_path / f"x{k}.tif")


def test_a_tif_without_a_place_stays_a_picture_and_leaves_no_map_of_an_earlier_run(tmp_path):
    write_geotiff(tmp_path / "geo" / "0.tif", clip(1)[0])
    run(tmp_path / "geo", tmp_path / "out")
    assert (tmp_path / "out" / "tracks.geojson").is_file()
    (tmp_path / "plain").mkdir()
    cv2.imwrite(str(tmp_path / "plain" / "0.tif"), clip(1)[0][..., ::-1])
    out = run(tmp_path / "plain", tmp_path / "out")
    assert sorted(entry.name for entry in out.iterdir()) == [
        *("masks", "overlay.mp4", "report.html", "result.json", "tracks.csv")
    ]


def test_frames_without_a_place_among_others_are_told(tmp_path):
    write_geotiff(tmp_path / "in" / "0.tif", clip(2)[0])
    cv2.imwrite(str(tmp_path / "in" / "1.tif"), clip(2)[1][..., ::-1])
    out = run(tmp_path / "in", tmp_path / "out")
    assert len(tracks(out)["features"]) == 1
    assert "1 of 2 frames have no georeference" in notes(out)


def test_two_coordinate_systems_are_refused(tmp_path):
    write_geotiff(tmp_path / "in" / "0.tif", clip(2)[0])
    write_geotiff(tmp_path / "in" / "1.tif", clip(2)[1], crs="EPSG:32634")
    with pytest.raises(UserError, match=r"1\.tif is in EPSG:32634 but the frames before it are in EPSG:32633"):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cut_file_and_complex_numbers_are_refused_by_name(tmp_path):
    path = write_geotiff(tmp_path / "0.tif", clip(1)[0])
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UserError, match=r"0\.tif cannot be decoded"):
        open_video(path)
    path = write_geotiff(tmp_path / "1.tif", np.ones((20, 20, 1), np.complex64))
    with pytest.raises(UserError, match=r"1\.tif holds complex64 numbers"):
        open_video(path)


def test_without_rasterio_a_geotiff_is_refused_and_a_plain_tif_is_read(tmp_path, monkeypatch):
    write_geotiff(tmp_path / "geo" / "0.tif", clip(1)[0])
    (tmp_path / "plain").mkdir()
    cv2.imwrite(str(tmp_path / "plain" / "0.tif"), clip(1)[0][..., ::-1])
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UserError, match=r'pip install "mqc_jax\[geo\]"'):
        run(tmp_path / "geo", tmp_path / "out")
    run(tmp_path / "plain", tmp_path / "out")


def test_a_part_of_a_sequence_keeps_names_and_places(tmp_path):
    for t, frame in enumerate(clip(6)):
        write_geotiff(tmp_path / "in" / f"{t + 20}.tif", frame, PLACES["north up"] @ Affine.translation(t, 0))
    predict(str(tmp_path / "in"), ["red"], str(tmp_path / "out"), ColourTracker, progress=False, start=2, end=4)
    told = [feature["properties"] for feature in tracks(tmp_path / "out")["features"]]
    assert [(p["frame"], p["name"]) for p in told] == [(2, "22.tif"), (3, "23.tif")]
    assert told[1]["centroid"] == pytest.approx(PLACES["north up"] @ (7 + 3 + 3, 9))
    with rasterio.open(tmp_path / "out" / "masks_geo" / "00" / "00003.tif") as file:
        assert file.read(1, window=Window(5, 5, 10, 8)).all()
