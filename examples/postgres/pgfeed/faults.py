"""What makes the feeder stop rather than lose or guess."""


class FeederFault(Exception):
    """The feeder cannot go on; the message says what to do. The slot and the state stay."""

    exit_code = 1


class SetupFault(FeederFault):
    """Options, tables or state that do not fit; found before anything is changed."""

    exit_code = 2


class Stopping(Exception):
    """Somebody asked the feeder to end while it was waiting."""
