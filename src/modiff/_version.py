"""The version, in one place: the package, its metadata and the citation read it from here."""

__version__ = "0.2.0.dev0"
