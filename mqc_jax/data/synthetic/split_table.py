"""SAT-MTB's table of splits as a spreadsheet, written by hand: it is four equal sheets of a few rows."""

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

_SHEETS = ("det_HBB", "det_OBB", "mot", "seg")
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_RELATIONSHIPS = "application/vnd.openxmlformats-package.relationships+xml"
_SPREADSHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def write_split_table(path: Path, splits: dict[str, list[str]]) -> None:
    """Writes `data_split.xlsx` with the sheets det_HBB, det_OBB, mot and seg.

    Under a heading there is one row for each split and superclass. Column 0 names the split, in its first row only;
    column 1 the superclass; the further columns hold sequence numbers.

    Args:
      splits: for each split its folders, as "airplane/01".
    """
    rows = [["split", "class", "sequences"]]
    for split, folders in splits.items():
        groups: dict[str, list[str]] = {}
        for folder in folders:
            kind, number = folder.split("/")
            groups.setdefault(kind, []).append(number)
        rows += [["" if k else split, kind, *numbers] for k, (kind, numbers) in enumerate(groups.items())]
    sheet = f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>{"".join(map(_row, rows))}</sheetData></worksheet>'
    parts = _frame() | {f"xl/worksheets/sheet{k}.xml": sheet for k in range(1, len(_SHEETS) + 1)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, text in parts.items():
            book.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)  # a fixed date keeps the bytes equal


def _row(cells: list[str]) -> str:
    inline = (f'<c t="inlineStr"><is><t>{escape(cell)}</t></is></c>' if cell else "<c/>" for cell in cells)
    return f"<row>{''.join(inline)}</row>"


def _frame() -> dict[str, str]:
    """The parts of a workbook around its sheets."""
    kinds, links, names = [], [], []
    for k, name in enumerate(_SHEETS, 1):
        kinds.append(f'<Override PartName="/xl/worksheets/sheet{k}.xml" ContentType="{_SPREADSHEET}.worksheet+xml"/>')
        links.append(f'<Relationship Id="rId{k}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{k}.xml"/>')
        names.append(f'<sheet name="{name}" sheetId="{k}" r:id="rId{k}"/>')
    kinds = [
        f'<Default Extension="rels" ContentType="{_RELATIONSHIPS}"/>',
        '<Default Extension="xml" ContentType="application/xml"/>',
        f'<Override PartName="/xl/workbook.xml" ContentType="{_SPREADSHEET}.sheet.main+xml"/>',
        *kinds,
    ]
    book = f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{"".join(names)}</sheets></workbook>'
    root = f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
    return {
        "[Content_Types].xml": f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types">{"".join(kinds)}</Types>',
        "_rels/.rels": _links([root]),
        "xl/workbook.xml": _HEAD + book,
        "xl/_rels/workbook.xml.rels": _links(links),
    }


def _links(links: list[str]) -> str:
    return f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{"".join(links)}</Relationships>'
