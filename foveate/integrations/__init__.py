"""Plug-ins for other people's harnesses: each module needs the package that it plugs into; none is imported here."""
