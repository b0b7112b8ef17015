"""What can go wrong with the state. Every message is one line that says what to do next."""


class StateError(Exception):
    """Base of every error of the state store."""


class StateLocked(StateError):
    """Another process is the one that writes."""


class InvalidSaveName(StateError):
    """A name that cannot be that of a save."""


class NotFound(StateError):
    """There is no such generation or save."""


class SaveExists(StateError):
    """The name of a save is taken."""


class NotStorable(StateError):
    """What was to be stored has no form on disk that gives the same back."""


class Damaged(StateError):
    """A generation is not what was written."""


class NewerFormat(StateError):
    """A generation was written by a newer version of SOVL."""


class OtherModels(StateError):
    """What a generation has learned, it learned on other models."""


class NoSoundGeneration(StateError):
    """There are generations, but none of them can be loaded."""


class NotReadBack(StateError):
    """A generation was written, but what is on disk is something else."""
