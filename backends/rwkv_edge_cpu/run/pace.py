"""How many threads take part in a step: fewer while other processes need the cores.

A thread that the system has taken off its core holds up all others at the next barrier. One thread fewer, on the cores that
are free, is then faster than all of them.
"""
from dataclasses import dataclass

THREADS_WORTH, LEAST = 0.7, 0.2  # of waiting: a thread's part of the work, nearly; what uneven work alone can come to
SMOOTHING = 0.25  # one bad step alone changes nothing
REST, LONGEST_REST = 0.05, 0.4  # seconds until one more thread is tried again; doubled each time that it fails


@dataclass(slots=True)
class Pace:
    """workers: of the next step, at most `most`."""

    most: int
    workers: int = 0
    waste: float = 0.0
    rest: float = REST
    until_trial: float = 0.0

    def __post_init__(self) -> None:
        self.workers = self.most

    def step_done(self, waited: float, elapsed: float) -> None:
        """waited: seconds that the workers of this step spent in long waits, all together; elapsed: seconds of the step.

        One that is held up makes all others wait.
        """
        share = waited / (max(1, self.workers - 1) * elapsed)
        self.waste += SMOOTHING * (min(1.0, share) - self.waste)
        too_much = max(THREADS_WORTH / self.workers, LEAST)
        if self.workers > 1 and self.waste > too_much:
            self.rest = min(2 * self.rest, LONGEST_REST)
            self.workers, self.waste, self.until_trial = self.workers - 1, 0.0, self.rest
        elif self.workers < self.most:
            self.until_trial -= elapsed
            if self.until_trial <= 0:  # on trial: a bad step or two are enough
                self.workers, self.waste, self.until_trial = self.workers + 1, too_much / 2, self.rest
        elif self.waste < 0.1 * too_much:
            self.rest = REST
