"""What can go wrong in a load test, told to the user without a traceback."""


class LoadTestFault(Exception):
    """The run cannot go on: no compiler, a server that does not start, a missing option."""


class DeliveryFault(LoadTestFault):
    """Something that should have arrived did not, or arrived twice, altered or out of order."""
