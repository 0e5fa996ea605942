"""What tests know of an HTML page: its elements are closed, its tables have headings, it loads nothing."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset(["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"])
LOADS = ("src", "href", "action", "data", "poster", "srcset", "xlink:href", "background", "ping", "formaction")


@dataclass
class Page(HTMLParser):
    """A page, read.

    Attributes:
        faults: elements that are closed in the wrong place, or not.
        links: what attributes point to.
        tables: headings, and the text of the cells row by row.
        text: all text outside of scripts and styles.
        elements: names of elements with their attributes.
    """

    faults: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    tables: list[tuple[list[str], list[list[str]]]] = field(default_factory=list)
    text: str = ""
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []

    @classmethod
    def of(cls, html: str) -> "Page":
        page = cls()
        page.feed(html)
        page.close()
        page.faults += [f"<{name}> is not closed" for name in page._open]
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.links += [value or "" for name, value in attrs if name in LOADS]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append(([], []))
        elif tag == "tr" and "tbody" in self._open:
            self.tables[-1][1].append([])
        elif tag in ("th", "td"):
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element, line {self.getpos()[0]}")

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & {*self._open}:
            self.text += data
            if {"th", "td"} & {*self._open}:
                self._row[-1] += data

    @property
    def _row(self) -> list[str]:
        headings, rows = self.tables[-1]
        return rows[-1] if "tbody" in self._open else headings

    def table(self, heading: str) -> list[list[str]]:
        """Rows of the first table with this heading."""
        return next(rows for headings, rows in self.tables if heading in headings)


def well_made(html: str) -> Page:
    """The page, checked."""
    page = Page.of(html)
    assert page.faults == []
    assert page.tables and all(headings and all(headings) for headings, _ in page.tables)
    assert all(len(row) == len(headings) for headings, rows in page.tables for row in rows)
    assert all(link.startswith("#") for link in page.links), page.links
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len({*ids}) and {link[1:] for link in page.links} <= {*ids}
    assert not {"link", "img", "iframe", "object"} & {name for name, _ in page.elements}
    assert "@import" not in html and "url(" not in html
    pictures = [attributes for name, attributes in page.elements if name == "svg"]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    assert len(html.encode()) < 1_000_000
    return page
