"""What a strategy tells that is no mistake: each said once, as a warning."""


class StrategyNotice(UserWarning):
    """What was chosen where the strategy left it open, or asked for what this machine has not."""


class FallbackWarning(StrategyNotice):
    """Another backend runs the model than the one that was preferred."""
