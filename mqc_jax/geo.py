"""Frames that know where on Earth they lie: GeoTIFF in; masks as GeoTIFF and tracks as GeoJSON out.

Everything is in the frames' own coordinate system. rasterio (the extra `geo`) is imported where a GeoTIFF is met, and
nowhere else. An affine transform takes (column, row), counted from the outer corner of the top-left pixel, to (x, y): a
pixel's centre is at (column + 0.5, row + 0.5).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mqc_jax import viz
from mqc_jax.errors import UserError

if TYPE_CHECKING:
    import affine
    import rasterio.crs

_GEO_TAGS = {33550, 33922, 34264, 34735}  # pixel scale, tie points, transformation, geo keys: the GeoTIFF standard's
_WORLD_FILES = (".tfw", ".tifw", ".tiffw", ".wld")


@dataclasses.dataclass(frozen=True)
class GeoReference:
    """Where a frame lies.

    Attributes:
      crs: coordinate system, None where the frame names none.
      transform: (column, row) -> (x, y), as the module's docstring says.
    """

    crs: rasterio.crs.CRS | None
    transform: affine.Affine


def is_geotiff(path: str | os.PathLike) -> bool:
    """Whether a file is a TIFF that carries a georeference, or has a world file beside it. Needs no rasterio."""
    path = Path(path)
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    tags = _tiff_tags(path)
    if not tags:
        return False
    return bool(tags & _GEO_TAGS) or any(path.with_suffix(suffix).is_file() for suffix in _WORLD_FILES)


def _tiff_tags(path: Path) -> set[int]:
    """The tags of a TIFF's first directory; none where the file is not a TIFF."""
    # ValueError: an offset beyond what files can have.
    with contextlib.suppress(OSError, struct.error, KeyError, ValueError), open(path, "rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}[head[:2]]
        (version,) = struct.unpack_from(order + "H", head, 2)
        # Classic TIFF and BigTIFF: offset of the first directory, its counter's form, bytes of an entry.
        where, counter, size = {42: ((4, "I"), "H", 12), 43: ((8, "Q"), "Q", 20)}[version]
        file.seek(struct.unpack_from(order + where[1], head, where[0])[0])
        (count,) = struct.unpack(order + counter, file.read(struct.calcsize(order + counter)))
        entries = file.read(min(count, 4096) * size)
        return {struct.unpack_from(order + "H", entries, at)[0] for at in range(0, len(entries) - size + 1, size)}
    return set()


def read_frame(path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    """A GeoTIFF's picture and what should be known about it.

    Red, green and blue are the bands that the file marks so, else its first three; one or two bands are grey.

    Returns:
      [H, W, 1 or 3] at its own depth, masked where a band has no data (uint8: 0 there instead); and sentences.

    Raises:
      UserError: rasterio is missing, or the file cannot be read.
    """
    with _opened(path) as source:
        if source.subdatasets:
            raise UserError(f"{path} holds {len(source.subdatasets)} pages; save each page as a picture of its own")
        if source.dtypes[0].startswith("complex"):
            raise UserError(f"{path} holds {source.dtypes[0]} numbers; frames need real ones, such as their magnitude")
        bands, notes = _bands(source)
        image = source.read(bands)
        valid = source.read_masks(bands) > 0
        palette = source.colormap(1) if source.colorinterp[0].name == "palette" and image.dtype == np.uint8 else None
    if palette is not None:
        image = np.array([palette.get(i, (0, 0, 0))[:3] for i in range(256)], np.uint8)[image[0]].transpose(2, 0, 1)
    if not valid.all():
        image = np.where(valid, image, 0) if image.dtype == np.uint8 else np.ma.array(image, mask=~valid)
        notes.append("Pixels without data (nodata) are black, and took no part in any stretch.")
    return image.transpose(1, 2, 0), notes


def _bands(source: Any) -> tuple[list[int], list[str]]:
    """Which bands to read, counted from 1, and a sentence where there was a choice."""
    if source.count < 3:
        if source.count == 2:
            return [1], ["Frames have 2 bands; the first is shown as grey."]
        return [1], []
    marked = [interpretation.name for interpretation in source.colorinterp]
    if all(name in marked for name in ("red", "green", "blue")):
        bands = [marked.index(name) + 1 for name in ("red", "green", "blue")]
        if source.count == 3 and bands == [1, 2, 3]:
            return bands, []
        why = "which the file marks so"
    else:
        bands, why = [1, 2, 3], "because the file marks none"
    return bands, [
        f"Frames have {source.count} bands; bands {bands[0]}, {bands[1]} and {bands[2]} are taken as red, green and "
        f"blue, {why}."
    ]


def read_reference(path: str | os.PathLike) -> GeoReference | None:
    """Where a GeoTIFF lies; None where it has no affine transform (control points alone are not one).

    Raises:
      UserError: rasterio is missing, or the file cannot be read.
    """
    with _opened(path) as source:
        return None if source.transform.is_identity else GeoReference(source.crs, source.transform)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    try:
        import rasterio
    except ImportError as error:
        raise UserError(
            f"{path} is a GeoTIFF, and reading those needs rasterio; install it with "
            '`pip install "mqc_jax[geo]"`, or give plain pictures'
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as source:
                yield source
    except rasterio.errors.RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise UserError(f"the picture {path} cannot be decoded ({reason}); copy it again") from error


def write_mask(path: str | os.PathLike, mask: np.ndarray, reference: GeoReference) -> None:
    """Writes a bool mask [H, W] as GeoTIFF: uint8, 0 or 255, no nodata value, deflated, where `reference` says."""
    import rasterio

    height, width = mask.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8"}
    try:
        with rasterio.open(
            path, "w", **profile, crs=reference.crs, transform=reference.transform, compress="deflate", zlevel=1
        ) as file:
            file.write(mask.astype(np.uint8) * 255, 1)
    except rasterio.errors.RasterioError as error:
        raise OSError(None, f"GDAL could not write the mask ({error})", os.fspath(path)) from error


def mask_geometry(mask: np.ndarray, transform: affine.Affine) -> dict[str, Any] | None:
    """The outline of a bool mask [H, W] along its pixels' edges, as a GeoJSON geometry in the transform's coordinates.

    Parts that touch at a corner only are polygons of their own. Outer rings run anticlockwise and holes clockwise, as
    RFC 7946 asks.

    Returns:
      A Polygon, a MultiPolygon, or None where the mask is empty.
    """
    if not mask.any():
        return None
    import rasterio.features

    x0, y0, x1, y1 = viz.bounding_box(mask)
    part = mask[y0:y1, x0:x1].astype(np.uint8)
    placed = transform @ type(transform).translation(x0, y0)
    # Four decimals of a pixel: enough, and the file is half as long.
    digits = max(0, 4 - math.floor(math.log10(math.sqrt(abs(transform.determinant)))))
    polygons = [
        [_turned(ring, hole > 0, digits) for hole, ring in enumerate(shape["coordinates"])]
        for shape, _ in rasterio.features.shapes(part, mask=part > 0, connectivity=4, transform=placed)
    ]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _turned(ring: list[tuple[float, float]], clockwise: bool, digits: int) -> list[list[float]]:
    x, y = (np.array(ring) - ring[0]).T
    doubled = float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))
    points = [[round(px, digits), round(py, digits)] for px, py in ring]
    return points[::-1] if (doubled < 0) != clockwise else points


class GeoTracks:
    """Writes `tracks.geojson`, one feature a frame and target, while frames come.

    The file appears with the first feature. Its coordinates are those of the frames' coordinate system, which is named
    in the `crs` member of GeoJSON's 2008 edition: RFC 7946 knows WGS84 alone, and GDAL and QGIS read the member.

    Args:
      path: of the file.
      texts: one sentence a target.
    """

    def __init__(self, path: str | os.PathLike, texts: list[str]) -> None:
        self._path, self._texts = Path(path), texts
        self._file = None
        self.crs: rasterio.crs.CRS | None = None

    @property
    def started(self) -> bool:
        """Whether there is a feature."""
        return self._file is not None

    def add(self, frame: int, name: str, target: int, presence: float, mask: np.ndarray, reference: GeoReference):
        """Appends a feature; where the mask is empty its geometry is null.

        Raises:
          UserError: the frame has another coordinate system than the frames before.
        """
        if self._file is None:
            self._start(reference)
        elif reference.crs != self.crs:
            raise UserError(
                f"{name} is in {crs_text(reference.crs)} but the frames before it are in {crs_text(self.crs)}; "
                "bring all frames to one coordinate system, for instance with `gdalwarp -t_srs`"
            )
        else:
            self._file.write(",\n")
        pixels = int(np.count_nonzero(mask))
        properties = {
            "target": target,
            "text": self._texts[target],
            "frame": frame,
            "name": name,
            "presence": round(presence, 4),
            "area": pixels * abs(reference.transform.determinant),
            "centroid": list(_centroid(mask, reference.transform)) if pixels else None,
        }
        feature = {"type": "Feature", "properties": properties, "geometry": mask_geometry(mask, reference.transform)}
        self._file.write(json.dumps(feature, ensure_ascii=False, separators=(",", ":")))

    def _start(self, reference: GeoReference) -> None:
        self.crs = reference.crs
        named = None
        if self.crs is not None:
            named = {"type": "name", "properties": {"name": crs_name(self.crs)}}
        self._file = open(self._path, "w", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self._file.write(f'{{"type":"FeatureCollection","name":"tracks","crs":{json.dumps(named)},"features":[\n')

    def close(self) -> None:
        """Ends the file."""
        if self._file is not None:
            self._file.write("\n]}\n")
            self._file.close()


def _centroid(mask: np.ndarray, transform: affine.Affine) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return transform @ (float(columns.mean()) + 0.5, float(rows.mean()) + 0.5)


def crs_name(crs: rasterio.crs.CRS) -> str:
    """A coordinate system's name as the `crs` member gives it: a URN where it has an EPSG code, else WKT.

    EPSG:4326 becomes CRS84, the same system with longitude first, as the coordinates are.
    """
    code = crs.to_epsg(confidence_threshold=100)
    if code == 4326:
        return "urn:ogc:def:crs:OGC:1.3:CRS84"
    return f"urn:ogc:def:crs:EPSG::{code}" if code else crs.to_wkt()


def crs_text(crs: rasterio.crs.CRS | None) -> str:
    """A coordinate system's name for people."""
    if crs is None:
        return "a coordinate system without a name"
    code = crs.to_epsg(confidence_threshold=100)
    return f"EPSG:{code}" if code else crs.to_wkt().split('"')[1]
