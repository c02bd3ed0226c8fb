"""Layered drawing of a directed graph (Sugiyama's method, by grandalf), from left to right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Point = tuple[float, float]
Edge = tuple[str, str]

SWEEPS = 12
"""Passes over the layers that reorder boxes for fewer crossings; more change nothing for graphs of this size."""


class _View:
    """What grandalf keeps of a box: it draws from top to bottom, so width and height are exchanged."""

    def __init__(self, width: float, height: float) -> None:
        self.w, self.h, self.xy = height, width, (0.0, 0.0)


class _Line:
    """What grandalf keeps of an edge: the points it goes through."""

    def setpath(self, points: Sequence[Any]) -> None:
        self.points = [point.view.xy if hasattr(point, "view") else point for point in points]


def layered(
    widths: Mapping[str, float], edges: Sequence[Edge], *, height: float, gap: float, between: float
) -> tuple[dict[str, Point], dict[Edge, tuple[Point, ...]]]:
    """Places of boxes, and the points inside of each edge at which it passes other layers; all in pixels.

    Args:
        widths: of each box, by name.
        edges: pairs of names; the graph has no circle.
        height: of every box.
        gap: least distance between the boxes of a layer.
        between: distance between layers.

    Returns:
        The upper left corner (x, y) of each box, and for each edge its points between its two boxes.
    """
    from grandalf.graphs import Edge as Link
    from grandalf.graphs import Graph, Vertex

    vertices = {name: Vertex(name) for name in sorted(widths)}
    links = {edge: Link(vertices[edge[0]], vertices[edge[1]]) for edge in sorted(edges)}
    for name, vertex in vertices.items():
        vertex.view = _View(widths[name], height)
    for link in links.values():
        link.view = _Line()
    top = 0.0
    places: dict[str, Point] = {}
    ways: dict[Edge, tuple[Point, ...]] = {}
    for component in Graph(list(vertices.values()), list(links.values())).C:
        _lay_out(component, gap, between)
        members = [name for name, vertex in vertices.items() if vertex in component.sV]
        own = {edge: link for edge, link in links.items() if edge[0] in members}
        inner = {edge: [(y, x) for x, y in link.view.points[1:-1]] for edge, link in own.items()}
        corners = {name: _corner(vertices[name].view) for name in members}
        left, least = min(x for x, _ in corners.values()), min(y for _, y in corners.values())
        low = min([least, *(y for points in inner.values() for _, y in points)])
        places |= {name: (x - left, y - low + top) for name, (x, y) in corners.items()}
        ways |= {edge: tuple((x - left, y - low + top) for x, y in points) for edge, points in inner.items()}
        top = max(y for _, y in places.values()) + height + gap
    return places, ways


def _lay_out(component: Any, gap: float, between: float) -> None:
    from grandalf.layouts import SugiyamaLayout

    layout = SugiyamaLayout(component)
    layout.xspace, layout.yspace = gap, between
    layout.route_edge = lambda edge, points: None
    layout.init_all()
    layout.draw(SWEEPS)


def _corner(view: _View) -> Point:
    x, y = view.xy
    return y - view.h / 2, x - view.w / 2
