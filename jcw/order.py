"""An order of the sites of a graph in which few of them must be remembered.

Of the sites placed so far, the *frontier* are those with a neighbour still to come. The least, over all orders, of the
greatest frontier is the graph's pathwidth. The search is exact, for the frontier's size is submodular: the first
extension found after which the frontier is no greater than before can be kept without loss (Tamaki, 2011). Only where
the frontier has to grow first are several sites tried in turn.
"""

from collections.abc import Sequence

Scopes = tuple[tuple[int, int], ...]


def find_order(scopes: Scopes, num_sites: int, width: int) -> tuple[int, ...] | None:
    """Return an order with at most `width` sites in any frontier, near the sites' own; None where there is none."""
    near = neighbours(scopes, num_sites)
    order: list[int] = []
    for component in _components(near):
        starts = (_from(start, component, near, width) for start in component)
        found = next((part for part in starts if part is not None), None)
        if found is None:
            return None
        order += found
    return tuple(order)


def widest_frontier(scopes: Scopes, num_sites: int, width: int) -> list[int]:
    """Return the first frontier of more than `width` sites of an order that takes the least one at every site."""
    near = neighbours(scopes, num_sites)
    order: list[int] = []
    while len(frontier(order, near)) <= width and len(order) < num_sites:
        left = [site for site in range(num_sites) if site not in order]
        order.append(min(left, key=lambda site: len(frontier([*order, site], near))))
    return frontier(order, near)


def neighbours(scopes: Scopes, num_sites: int) -> list[set[int]]:
    """Return every site's neighbours."""
    near: list[set[int]] = [set() for _ in range(num_sites)]
    for i, j in scopes:
        near[i].add(j)
        near[j].add(i)
    return near


def frontier(placed: Sequence[int], near: list[set[int]]) -> list[int]:
    """Return the placed sites that have a neighbour still to come."""
    done = set(placed)
    return [site for site in placed if not near[site] <= done]


def _from(start: int, component: list[int], near: list[set[int]], width: int) -> list[int] | None:
    order: list[int] | None = [start] if len(frontier([start], near)) <= width else None
    while order is not None and len(order) < len(component):
        order = _extend(order, component, near, width)
    return order


def _extend(order: list[int], component: list[int], near: list[set[int]], width: int) -> list[int] | None:
    """Return an extension whose frontier is no greater; None where there is none, and so no order either."""
    held = len(frontier(order, near))
    longer = [[*order, site] for site in component if site not in order]
    sizes = [len(frontier(each, near)) for each in longer]
    for each, size in zip(longer, sizes, strict=True):
        if size <= held:
            return each
    for each, size in zip(longer, sizes, strict=True):
        way: list[int] | None = each if size <= width else None
        while way is not None and len(frontier(way, near)) > held:
            way = _extend(way, component, near, width)
        if way is not None:
            return way
    return None


def _components(near: list[set[int]]) -> list[list[int]]:
    left, found = set(range(len(near))), []
    while left:
        reached, edge = set(), {min(left)}
        while edge:
            reached |= edge
            edge = set().union(*(near[site] for site in edge)) - reached
        found.append(sorted(reached))
        left -= reached
    return found
