"""The order in which backends ask to be tried, where nothing is measured."""
from rwkv_edge import registry
from rwkv_edge.backend import Traits


def ranked() -> dict[str, Traits]:
    """All that are installed, in the order that they ask for: see `Traits`. Loads them."""
    traits = {name: registry.traits(name) for name in registry.installed()}
    return dict(sorted(traits.items(), key=lambda item: (item[1].last_resort, item[1].rank, item[0])))
