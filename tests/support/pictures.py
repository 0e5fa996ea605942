"""Pictures without the time that rendering takes, which is a quarter of that of a tiny run."""

from typing import TYPE_CHECKING

from nmtprune import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

render = plots._rendered
_rendered: dict[tuple[str, ...], bytes] = {}


def rendered_once(figure: "Figure") -> bytes:
    """A picture as a PNG file. Of those with the same titles only the first of a process is rendered, for all of them.

    All are drawn; what they show is a matter of the tests of `nmtprune.plots`.
    """
    titles = tuple(axes.get_title() for axes in figure.axes)
    if titles not in _rendered:
        _rendered[titles] = render(figure)
    return _rendered[titles]
