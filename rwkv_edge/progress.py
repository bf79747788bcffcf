"""How long work tells its caller how far it is."""
from collections.abc import Callable

Progress = Callable[[int, int], None]  # what is done, and all of it; the unit is said where one is taken
